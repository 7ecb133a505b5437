"""Standard streams and signals: in every state of them a command ends with an exit code and at most one line."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO

FAILED = 1
#: What shells report of a process that a signal ended: 128 and its number.
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE


class CommandError(Exception):
    """A command that was not carried out; ``str()`` says why in a line."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: as an interrupt from the keyboard, with an exit code of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def open_standard_streams() -> None:
    """Replace standard streams that were closed when the process began.

    Standard output becomes one that fails when it is written to: a command whose answer is lost must not succeed. Each
    takes the free file descriptor, so that no file that is opened later is written to by mistake. What an encoding
    cannot hold is escaped.
    """
    for name, flags, mode in (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "r"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, closefd=False))
    with suppress(AttributeError):  # what a test puts there is no text file
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def guarded(action: Callable[[], int]) -> int:
    """The exit code of ``action``, with a line on standard error where it fails as commands may."""
    try:
        return action()
    except CommandError as failure:
        say(f"error: {failure}")
    except BrokenPipeError:  # the reader, such as `head`, has had enough: no error of ours
        _discard(sys.stdout)
        return BROKEN_PIPE
    except OSError as failure:
        _discard(sys.stdout)
        say(f"error: {failure.filename or 'standard output'}: {failure.strerror or failure}")
    except Stopped as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return FAILED


def flush() -> int:
    """Write what is buffered while a failure can still be reported: 0. Raises OSError."""
    sys.stdout.flush()
    return 0


def say(text: str) -> None:
    """Write ``text`` on standard error as one line, without what would control a terminal."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


@contextmanager
def stopping_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise Stopped; one that is ignored, as under nohup, stays so."""
    replaced: list[int] = []
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        replaced = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for each in replaced:
        signal.signal(each, _stop)
    try:
        yield
    finally:
        for each in replaced:
            signal.signal(each, signal.SIG_DFL)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


def _discard(stream: IO[str]) -> None:
    """Send what ``stream`` still holds nowhere: the interpreter would fail to write it again when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
