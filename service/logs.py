"""Log lines on standard error, as JSON objects or as readable text, written by threads of their own.

python-json-logger would replace `_fields_of` and cost twice as much for a request's line; the rest would stay.
"""

import json
import logging
import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from random import getrandbits
from typing import Any, Literal

from service.request_info import RequestInfo

#: Attributes that every record has; all others were given with `extra` and belong in the line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}

#: A field of records that people read in text, in place of the message and the other fields. Not in JSON.
SENTENCE = "sentence"
#: The logger of requests, and the fields that a line in text has without their names.
_ACCESS, _FIRST = "service.access", ("time", "level", "message")

STANDARD_ERROR = 2

Format = Literal["auto", "json", "text"]
#: A line before it is rendered: time, level, logger, message, then any others, of which a traceback is the last.
Fields = dict[str, Any]
Render = Callable[[Fields], str]

_ENCODER = json.JSONEncoder(default=str)


def as_json(fields: Fields) -> str:
    """``fields`` as a JSON object, in printable ASCII."""
    if SENTENCE in fields:
        fields = {key: value for key, value in fields.items() if key != SENTENCE}
    return _ENCODER.encode(fields)


def as_text(fields: Fields) -> str:
    """``fields`` as "time message key=value ...", in printable ASCII, with an indented traceback below.

    The time is local. The level is there unless it is info, and then the logger too. A sentence takes the place of the
    message and the other fields.
    """
    head, rest = [_local_time(fields["time"])], fields.copy()
    if fields["level"] == "info":
        del rest["logger"]
    else:
        head.append(fields["level"])
    if fields["logger"] == _ACCESS:
        rest = _shortened(rest)
    traceback = str(rest.pop("traceback", ""))
    sentence = rest.pop(SENTENCE, None)
    head.append(_escaped(rest["message"] if sentence is None else sentence))
    if sentence is None:
        head += (f"{_escaped(key)}={_value(value)}" for key, value in rest.items() if key not in _FIRST)
    return "\n    ".join([" ".join(head), *map(_escaped, traceback.split("\n") if traceback else ())])


def _local_time(utc: str) -> str:
    return datetime.fromisoformat(utc).astimezone().strftime("%H:%M:%S")


def _shortened(request: Fields) -> Fields:
    """The line of a request with what people look for; JSON has the rest."""
    kept: Fields = {key: request[key] for key in ("key", "rows", "id") if key in request}
    outcome = {} if request["outcome"] == "ok" else {"outcome": request["outcome"]}
    about = f"{request['method']} {request['path']} {request['status']} in {request['total_ms']:.1f} ms"
    return {"message": about, **outcome, **kept}


def _escaped(text: str) -> str:
    """``text`` without what would control a terminal or end the line."""
    return text if text.isascii() and text.isprintable() else json.dumps(text)[1:-1]


def _value(value: object) -> str:
    return value if isinstance(value, str) and re.fullmatch(r"[\w./:@+-]+", value, re.ASCII) else _ENCODER.encode(value)


def renderer(format: Format) -> Render:
    """How lines are written; "auto" is text if standard error is a terminal, else JSON."""
    if format == "auto":
        format = "text" if os.isatty(STANDARD_ERROR) else "json"
    return as_text if format == "text" else as_json


def _fields_of(record: logging.LogRecord) -> Fields:
    """The fields of ``record``, and its traceback if it has one."""
    line = _fields(record.created, record.levelname.lower(), record.name, record.getMessage())
    line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
    if record.exc_info:
        line["traceback"] = logging.Formatter().formatException(record.exc_info)
    return line


def _fields(created: float, level: str, logger: str, message: str, **others: object) -> Fields:
    return {"time": _utc(created), "level": level, "logger": logger, "message": message, **others}


#: Seconds between two writes, and the largest number of lines that wait for one.
WRITE_EVERY_S = 0.2
MOST_LINES = 10_000
#: Largest number of characters of a text that a client chose. Escaped, up to twelve for one, a line fits into PIPE_BUF.
ID_CHARACTERS, TEXT_CHARACTERS = 128, 80

#: Beginnings of paths that monitoring requests every few seconds.
POLLED = ("/health/", "/metrics")


class LineWriter:
    """Writes lines to a file descriptor in a thread of its own, so that logging neither waits for a reader nor fails.

    Lines wait in a bounded queue. If it is full or a write fails, lines are lost: ``lost`` is called with their number,
    and a warning with that number is written before the next line.
    """

    def __init__(
        self, name: str, lost: Callable[[int], object], descriptor: int = STANDARD_ERROR, render: Render = as_json
    ) -> None:
        self._lost, self._descriptor, self._render = lost, descriptor, render
        self._lines: deque[str] = deque()
        self._missing, self._missing_lock = 0, threading.Lock()  # lost lines that are not reported yet
        self._wake = threading.Event()
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, fields: Fields, *, now: bool = False) -> None:
        """Queue a line for the next write; with ``now``, wake the thread at once."""
        if len(self._lines) < MOST_LINES:
            self._lines.append(f"{self._render(fields)}\n")
        else:
            self._lose(1)
        if now:
            self._wake.set()

    def close(self) -> None:
        """Write the queued lines and end the thread. Gives up after two seconds if nobody reads."""
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
        """Report lost lines; False if that failed."""
        missing = self._missing
        if not missing:
            return True
        about = _fields(time.time(), "warning", __name__, "log lines were lost", lines=missing)
        reported = self._write(f"{self._render(about)}\n".encode())
        if reported:
            with self._missing_lock:
                self._missing -= missing
        return reported

    def _write(self, data: bytes) -> bool:
        """Write all of ``data``; False if that failed. A non-blocking descriptor may take a part of it, or none yet."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                if time.monotonic() > self._give_up_at:
                    return False
                _wait_until_writable(self._descriptor, WRITE_EVERY_S)
            except Exception:  # no reader, a full disk, no descriptor: that may change, so the thread goes on
                return False
        return True


def _wait_until_writable(descriptor: int, most_s: float) -> None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    waiting.poll(1000 * most_s)


class LineHandler(logging.Handler):
    """Passes records to a ``LineWriter``."""

    def __init__(self, render: Render = as_json) -> None:
        super().__init__()
        self._writer = LineWriter("log", lambda _lines: None, render=render)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of ``record``; if it cannot be formatted, a line with the reason."""
        try:
            self._writer.put(_fields_of(record), now=True)
        except Exception as failure:
            message = "a record could not be formatted"
            fields = _fields(record.created, "error", record.name, message, reason=repr(failure))
            self._writer.put(fields, now=True)

    def close(self) -> None:
        """Write the queued lines."""
        self._writer.close()
        super().close()


def configure(level: str, format: Format = "json") -> None:
    """Write the records of all loggers to standard error, from ``level`` on."""
    logging.basicConfig(level=level.upper(), handlers=[LineHandler(renderer(format))], force=True)
    # Every process logs uvicorn's start and stop; the supervisor's own lines already report both.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING if level == "info" else logging.NOTSET)


class AccessLog:
    """Writes a line for each request to standard error; for monitoring requests only with ``everything``.

    Lines are written five times a second. ``lost`` is called with the number of lines that were lost.
    """

    def __init__(self, lost: Callable[[int], object], *, everything: bool = False, format: Format = "json") -> None:
        self._everything = everything
        self._writer = LineWriter("access-log", lost, render=renderer(format))

    def note(self, info: RequestInfo, method: str, path: str) -> None:
        """Log an answered request."""
        if path.startswith(POLLED) and info.status < HTTPStatus.BAD_REQUEST and not self._everything:
            return
        self._writer.put(access_fields(info, method, path, time.time(), time.monotonic()))

    def close(self) -> None:
        """Write the queued lines."""
        self._writer.close()


def chunks(lines: Iterable[str]) -> Iterator[str]:
    """ASCII lines joined into texts that pipes take in one piece, so that other writers' output never splits a line."""
    gathered = ""
    for line in lines:
        if gathered and len(gathered) + len(line) > select.PIPE_BUF:
            yield gathered
            gathered = ""
        gathered += line
    if gathered:
        yield gathered


def access_fields(info: RequestInfo, method: str, path: str, now: float, clock: float) -> Fields:
    """The line of a request that ended at ``now``; ``clock`` is the same moment on the monotonic clock.

    Not a record of ``logging``, which costs twice as much.
    """
    line = _fields(now, "info", _ACCESS, "request")
    line["id"] = (info.request_id or f"{getrandbits(64):016x}")[:ID_CHARACTERS]
    line["method"], line["path"] = method, path[:TEXT_CHARACTERS]
    if info.caller is not None:
        line["key"] = info.caller.key.name
    if info.model is not None:
        line["model"] = info.model[:TEXT_CHARACTERS]
    if info.rows is not None:
        line["rows"] = info.rows
    if info.stages_s is not None:
        line |= zip(("queue_ms", "compute_ms", "encode_ms"), map(_ms, info.stages_s), strict=True)
    line["total_ms"] = _ms(clock - info.arrived_at)
    line["status"] = info.status
    line["outcome"] = info.outcome or _OUTCOMES.get(info.status) or ("ok" if info.status < 400 else "error")
    return line


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


#: Statuses without an error of the tree: nginx's number for a client that closed the connection, and HTTP's own.
_OUTCOMES = {499: "client-left", 404: "not-found", 405: "method-not-allowed"}


def _utc(seconds: float) -> str:
    second = int(seconds)
    return f"{_utc_second(second)}.{int(1000 * (seconds - second)):03d}+00:00"


@lru_cache(maxsize=2)  # a second has thousands of lines
def _utc_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
