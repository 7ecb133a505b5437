"""Logs as one JSON object a line, on standard error."""

import json
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from random import getrandbits
from typing import Any

from service.request_info import RequestInfo

#: What every record carries; whatever else it has was given with `extra` and belongs in the line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, then the record's extra fields, then the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


#: Seconds between two writes of an access log, and how many lines wait for one at most.
WRITE_EVERY_S = 0.2
MOST_LINES = 10_000
#: Characters told of what a caller chose: its id, and other texts. Escaped, twelve for one, they fit into PIPE_BUF.
ID_CHARACTERS, TEXT_CHARACTERS = 128, 80

#: Paths that machines ask for every few seconds.
POLLED = ("/health/", "/metrics")

STANDARD_ERROR = 2


class LineWriter:
    """Writes lines to a file descriptor, in a thread of its own, so that logging neither waits for a reader nor fails.

    Lines wait in a bounded queue. Those that find no room in it, and those that cannot be written, are lost: ``lost``
    is called with their number, and before the next line comes a warning that says how many there were.
    """

    def __init__(self, name: str, lost: Callable[[int], object], descriptor: int = STANDARD_ERROR) -> None:
        self._lost, self._descriptor = lost, descriptor
        self._lines: deque[str] = deque()
        self._missing, self._missing_lock = 0, threading.Lock()  # lines that were lost and are not reported yet
        self._wake = threading.Event()
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, line: str, *, now: bool = False) -> None:
        """Have ``line``, which ends with a newline, written soon; with ``now``, as soon as the thread gets to it."""
        if len(self._lines) < MOST_LINES:
            self._lines.append(line)
        else:
            self._lose(1)
        if now:
            self._wake.set()

    def close(self) -> None:
        """Write what is left and end the thread. A reader that does not read is waited for for two seconds."""
        self._give_up_at = time.monotonic() + 10 * WRITE_EVERY_S
        self._wake.set()
        self._thread.join(10 * WRITE_EVERY_S)

    def _lose(self, lines: int) -> None:
        with self._missing_lock:
            self._missing += lines
        self._lost(lines)

    def _run(self) -> None:
        last = False
        while not last:
            self._wake.wait(WRITE_EVERY_S)
            self._wake.clear()
            last = self._give_up_at < float("inf")
            for chunk in chunks([self._lines.popleft() for _ in range(len(self._lines))]):
                if not (self._report() and self._write(chunk.encode())):
                    self._lose(chunk.count("\n"))

    def _report(self) -> bool:
        """Whether no lost line is left unreported."""
        missing = self._missing
        if not missing:
            return True
        reported = self._write(lost_line(missing, time.time()).encode())
        if reported:
            with self._missing_lock:
                self._missing -= missing
        return reported

    def _write(self, data: bytes) -> bool:
        """Whether all of ``data`` could be written: a descriptor that does not block may take a part, or none yet."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                if time.monotonic() > self._give_up_at:
                    return False
                _wait_until_writable(self._descriptor, WRITE_EVERY_S)
            except Exception:  # no reader, no room on the disk, no descriptor: that may change, so the thread goes on
                return False
        return True


def _wait_until_writable(descriptor: int, most_s: float) -> None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    waiting.poll(1000 * most_s)


def lost_line(count: int, now: float) -> str:
    """The line that says that ``count`` lines before it are missing."""
    told = f'"level": "warning", "logger": "{__name__}", "message": "log lines were lost", "lines": {count:d}'
    return f'{{"time": "{_utc(now)}", {told}}}\n'


class LineHandler(logging.Handler):
    """Hands records to a ``LineWriter``."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._writer = LineWriter("log", lambda _lines: None)

    def emit(self, record: logging.LogRecord) -> None:
        """Have the line of ``record`` written; where it has none, the line of the reason."""
        try:
            line = self.format(record)
        except Exception as failure:
            about = {"logger": record.name, "message": "a record could not be formatted", "reason": repr(failure)}
            line = json.dumps({"time": _utc(record.created), "level": "error", **about})
        self._writer.put(f"{line}\n", now=True)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
        super().close()


def configure(level: str) -> None:
    """Send every logger's records of at least ``level`` to standard error."""
    logging.basicConfig(level=level.upper(), handlers=[LineHandler()], force=True)


class AccessLog:
    """A line for each request, on standard error; for those that only poll, when ``everything`` is asked for.

    The lines of a fifth of a second are written together. ``lost`` is called with the number of those that are lost.
    """

    def __init__(self, lost: Callable[[int], object], *, everything: bool = False) -> None:
        self._everything = everything
        self._writer = LineWriter("access-log", lost)

    def note(self, info: RequestInfo, method: str, path: str) -> None:
        """Log a request that is answered."""
        if path.startswith(POLLED) and info.status < HTTPStatus.BAD_REQUEST and not self._everything:
            return
        self._writer.put(access_line(info, method, path, time.time(), time.monotonic()))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def chunks(lines: Iterable[str]) -> Iterator[str]:
    """Whole lines, in as few texts as pipes take in one piece each: so what others write comes between lines only."""
    gathered = ""
    for line in lines:
        if gathered and len(gathered) + len(line) > select.PIPE_BUF:
            yield gathered
            gathered = ""
        gathered += line
    if gathered:
        yield gathered


def access_line(info: RequestInfo, method: str, path: str, now: float, clock: float) -> str:
    """The line of a request that ended at ``now``; ``clock`` is the same moment on the monotonic clock.

    Written by hand: a record of ``logging`` costs several times as much. What a caller can choose is quoted by the
    JSON encoder, the rest is numbers and words of our own.
    """
    identity = (info.request_id or f"{getrandbits(64):016x}")[:ID_CHARACTERS]
    told = ""
    if info.model is not None:
        told += f', "model": {_quoted(info.model[:TEXT_CHARACTERS])}'
    if info.rows is not None:
        told += f', "rows": {info.rows:d}'
    if info.stages_s is not None:
        queue_s, compute_s, encode_s = info.stages_s
        told += f', "queue_ms": {1000 * queue_s:.3f}, "compute_ms": {1000 * compute_s:.3f}'
        told += f', "encode_ms": {1000 * encode_s:.3f}'
    outcome = info.outcome or _OUTCOMES.get(info.status) or ("ok" if info.status < HTTPStatus.BAD_REQUEST else "error")
    return (
        f'{{"time": "{_utc(now)}", "level": "info", "logger": "service.access", "message": "request", '
        f'"id": {_quoted(identity)}, "method": {_quoted(method)}, "path": {_quoted(path[:TEXT_CHARACTERS])}{told}, '
        f'"total_ms": {1000 * (clock - info.arrived_at):.3f}, "status": {info.status:d}, '
        f'"outcome": "{outcome}"}}\n'
    )


_quoted = json.encoder.encode_basestring_ascii

#: What no error of ours stands for: nginx's number for a client that left, and HTTP's own.
_OUTCOMES = {499: "client-left", 404: "not-found", 405: "method-not-allowed"}


def _utc(seconds: float) -> str:
    second = int(seconds)
    return f"{_utc_second(second)}.{int(1000 * (seconds - second)):03d}+00:00"


@lru_cache(maxsize=2)  # a second has thousands of lines
def _utc_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
