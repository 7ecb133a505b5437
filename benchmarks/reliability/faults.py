"""The service with a planted fault, to see that a bench notices it.

RELIABILITY_FAULT=echo python -m benchmarks.reliability.faults
"""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from service import __main__ as service
from service.admission.gate import Gate
from service.api.http import access
from service.api.request import body
from service.engine.table import LiveRow
from service.errors import ComputeFailed
from service.link.messages import Failed
from service.link.pool import EngineLink, RemoteLane
from service.metrics import Metrics
from service.processes import api, members
from service.processes.control import Seat
from service.request_info import Disconnect, RequestInfo
from service.settings import Settings

MODULE, VARIABLE = "benchmarks.reliability.faults", "RELIABILITY_FAULT"

#: What a leak keeps of each request.
LEAKED_BYTES = 1024


class Fault(NamedTuple):
    """A fault: settings of the service, and a change to the code of its API processes."""

    text: str
    settings: Mapping[str, str] = {}
    patch: Callable[[], None] = lambda: None


def _echo() -> None:
    body.echoed = lambda name: name


def _raise() -> None:
    def raising(name: str) -> str:
        raise KeyError(name)

    body.echoed = raising


def _deaf() -> None:
    Disconnect.notify = Disconnect.clear  # type: ignore[method-assign]


def _leak() -> None:
    kept, plain = list[bytes](), RequestInfo.__init__

    def leaking(self: RequestInfo, *args: Any, **fields: Any) -> None:  # noqa: ANN401
        kept.append(os.urandom(LEAKED_BYTES))
        plain(self, *args, **fields)

    RequestInfo.__init__ = leaking  # type: ignore[method-assign]


def _mix_up() -> None:
    plain = EngineLink.put

    def mixed(self: EngineLink, lane: RemoteLane, job: Any, rows: Sequence[LiveRow]) -> None:  # noqa: ANN401
        if len(rows) > 1:
            rows[-1].spec = rows[-1].spec._replace(seed=rows[0].spec.seed)
        plain(self, lane, job, rows)

    EngineLink.put = mixed  # type: ignore[method-assign]


def _label_by_path() -> None:
    plain = access.Guard.check

    def counting(self: access.Guard, scope: Any) -> Any:  # noqa: ANN401
        for metrics in _METRICS:
            metrics.errors.labels(scope["path"][:64], "internal").inc()
        return plain(self, scope)

    define, access.Guard.check = Metrics.__init__, counting  # type: ignore[method-assign]

    def remembered(self: Metrics, *args: Any, **named: Any) -> None:  # noqa: ANN401
        define(self, *args, **named)
        _METRICS.append(self)

    Metrics.__init__ = remembered  # type: ignore[method-assign]


def _open_up() -> None:
    access.PUBLIC_FOLDERS = ("/",)  # type: ignore[assignment]


def _never_refuse() -> None:
    Gate._check = lambda *_: None  # type: ignore[method-assign]


def _one_for_all() -> None:
    plain = EngineLink._failed

    def failing(self: EngineLink, message: Failed) -> None:
        for sent in [*self._sent.values()]:
            sent.job.fail(ComputeFailed(message.reason))
        plain(self, message)

    EngineLink._failed = failing  # type: ignore[method-assign]


_METRICS: list[Metrics] = []

FAULTS: dict[str, Fault] = {
    "echo": Fault("names of unknown fields are repeated whole", patch=_echo),
    "raise": Fault("an unknown field raises in the handler", patch=_raise),
    "deaf": Fault("disconnected clients are not noticed", patch=_deaf),
    "leak": Fault("a KiB of each request is kept", patch=_leak),
    "mix-up": Fault("the last picture of a request has the first one's seed", patch=_mix_up),
    "labels": Fault("each path has a series of its own", patch=_label_by_path),
    "open": Fault("every path is public", patch=_open_up),
    "patient": Fault("slow readers are never disconnected", {"min_read_rate": "0"}),
    "never-refuses": Fault("everything is accepted", {"max_queue_ms": "1e9", "max_lag_ms": "1e9"}, _never_refuse),
    "one-for-all": Fault("a picture that fails takes all others with it", patch=_one_for_all),
    "long-ticks": Fault("forward passes may take seconds", {"tick_budget_ms": "5000"}),
}


@contextmanager
def planted(name: str) -> Iterator[dict[str, str]]:
    """Have a service that starts meanwhile commit a fault; yields the settings that it needs."""
    os.environ[VARIABLE] = name
    try:
        yield dict(FAULTS[name].settings)
    finally:
        del os.environ[VARIABLE]


def run(connection: Connection, seat: Seat, settings: Settings, sockets: list[socket.socket]) -> None:
    """Be an API process with the fault that the environment names."""
    FAULTS[os.environ[VARIABLE]].patch()
    api.run(connection, seat, settings, sockets)


def main() -> int:
    """Serve until stopped; returns the exit code."""
    members.API = MODULE
    return service.main()


if __name__ == "__main__":
    sys.exit(main())
