"""Standard streams and signals: whatever their state, a command ends with an exit code and at most one error line."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO

FAILED = 1
#: Exit codes of shells for a process that a signal ended: 128 plus its number.
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE


class CommandError(Exception):
    """A command that failed; ``str()`` says why in one line."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP: like an interrupt from the keyboard, with its own exit code."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def open_standard_streams() -> None:
    """Replace standard streams that were closed when the process started.

    Writing to the new standard output fails: a command whose output is lost must not succeed. Each takes the free
    file descriptor, so that no file that is opened later is written to by mistake. Characters that the encoding does
    not have are escaped.
    """
    for name, flags, mode in (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "r"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, closefd=False))
    with suppress(AttributeError):  # a test's replacement may not be a text file
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def guarded(action: Callable[[], int]) -> int:
    """The exit code of ``action``; expected failures are printed as one line on standard error."""
    try:
        return action()
    except CommandError as failure:
        say(f"error: {failure}")
    except BrokenPipeError:  # the reader, such as `head`, has closed it: not an error
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
    """Write the buffered output while a failure can still be reported. Returns 0, raises OSError."""
    sys.stdout.flush()
    return 0


def say(text: str) -> None:
    """Write ``text`` on standard error as one line, with control characters escaped."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


@contextmanager
def stopping_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise Stopped; an ignored signal, as with nohup, stays ignored."""
    replaced: list[int] = []
    if threading.current_thread() is threading.main_thread():  # other threads cannot set handlers
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
    """Discard the buffer of ``stream``: the interpreter would try to write it again at exit, and fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
