"""Logs as one JSON object a line, on standard error."""

import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from random import getrandbits
from select import PIPE_BUF
from typing import Any

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


def configure(level: str) -> None:
    """Send every logger's records of at least ``level`` to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


#: Seconds between two writes of an access log, and how many lines wait for one at most.
WRITE_EVERY_S = 0.2
MOST_LINES = 10_000
#: Characters told of what a caller chose: its id, and other texts. Escaped, twelve for one, they fit into PIPE_BUF.
ID_CHARACTERS, TEXT_CHARACTERS = 128, 80

#: Paths that machines ask for every few seconds.
POLLED = ("/health/", "/metrics")


class AccessLog:
    """A line for each request, on standard error; for those that only poll, when ``everything`` is asked for.

    The event loop makes the line and puts it aside; a thread writes what has gathered a few times a second, so that a
    slow reader holds up no request. Lines that find no room are lost, and ``lost`` is called for each.
    """

    def __init__(self, lost: Callable[[], None], *, everything: bool = False) -> None:
        self._lost, self._everything = lost, everything
        self._lines: deque[str] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    def note(self, state: Mapping[str, Any], method: str, path: str, status: int) -> None:
        """Tell of a request that is answered; ``state`` is what its handlers left in the ASGI scope's."""
        if path.startswith(POLLED) and status < HTTPStatus.BAD_REQUEST and not self._everything:
            return
        if len(self._lines) < MOST_LINES:
            self._lines.append(access_line(state, method, path, status, time.time(), time.monotonic()))
        else:
            self._lost()

    def close(self) -> None:
        """Write what is left and end the thread. A reader that is stuck is not waited for."""
        self._stopping.set()
        self._thread.join(10 * WRITE_EVERY_S)

    def _write(self) -> None:
        with suppress(OSError):  # nobody reads any more
            last = False
            while not last:
                last = self._stopping.wait(WRITE_EVERY_S)
                for chunk in chunks([self._lines.popleft() for _ in range(len(self._lines))]):
                    os.write(2, chunk.encode())


def chunks(lines: Iterable[str]) -> Iterator[str]:
    """Whole lines, in as few texts as pipes take in one piece each: so what others write comes between lines only."""
    gathered = ""
    for line in lines:
        if gathered and len(gathered) + len(line) > PIPE_BUF:
            yield gathered
            gathered = ""
        gathered += line
    if gathered:
        yield gathered


def access_line(state: Mapping[str, Any], method: str, path: str, status: int, now: float, clock: float) -> str:
    """The line of a request that ended at ``now``; ``clock`` is the same moment on the monotonic clock.

    Written by hand: a record of ``logging`` costs several times as much. What a caller can choose is quoted by the
    JSON encoder, the rest is numbers and words of our own.
    """
    identity = (state.get("request_id") or f"{getrandbits(64):016x}")[:ID_CHARACTERS]
    told = ""
    if isinstance(state.get("model"), str):
        told += f', "model": {_quoted(state["model"][:TEXT_CHARACTERS])}'
    if "rows" in state:
        told += f', "rows": {state["rows"]:d}'
    if "stages_s" in state:
        queue_s, compute_s, encode_s = state["stages_s"]
        told += f', "queue_ms": {1000 * queue_s:.3f}, "compute_ms": {1000 * compute_s:.3f}'
        told += f', "encode_ms": {1000 * encode_s:.3f}'
    outcome = state.get("outcome") or _OUTCOMES.get(status) or ("ok" if status < HTTPStatus.BAD_REQUEST else "error")
    return (
        f'{{"time": "{_utc(now)}", "level": "info", "logger": "service.access", "message": "request", '
        f'"id": {_quoted(identity)}, "method": {_quoted(method)}, "path": {_quoted(path[:TEXT_CHARACTERS])}{told}, '
        f'"total_ms": {1000 * (clock - state["arrived_at"]):.3f}, "status": {status:d}, '
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
