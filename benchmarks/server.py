"""Run the service on a free port for the length of a benchmark, with whatever processes it starts."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import process_tree

START_S, STOP_S = 300.0, 60.0
#: The service is settled when it uses less than this share of a core for so many seconds; it need not within the last.
QUIET_SHARE, QUIET_S, SETTLE_S = 0.1, 0.5, 60.0

WEIGHTS = Path("weights")

#: Settings that refuse no request: no bound on queues, client shares, deadlines and the event loop's lag.
UNBOUNDED = {"max_queue_ms": "1e9", "client_share": "1", "request_timeout_s": "1e6", "max_lag_ms": "1e9"}

#: How the log tells the port, in one process and in several.
_RUNNING = re.compile(r"running on http://[^\s\"]*:(\d+)")


class Service(NamedTuple):
    """A running service: its port, its first process, the seconds that it took to be ready, and its log."""

    port: int
    pid: int
    ready_s: float
    log: Path

    def cpu_s(self) -> float:
        """The processor seconds that all its processes have used, those that ended included."""
        return process_tree.cpu_s(self.pid)

    def memory_mib(self) -> float:
        """The memory of all its processes now, in MiB (PSS)."""
        return process_tree.memory_mib(self.pid)

    def named(self, role: str) -> dict[str, int]:
        """Its processes of a role ("api", "engine"), from name to pid."""
        return process_tree.named(self.pid, role)

    def settle(self) -> None:
        """Wait until it is idle: after it is ready, it starts a spare engine, which would disturb a measurement."""
        give_up = time.monotonic() + SETTLE_S
        while self._busy_share() > QUIET_SHARE and time.monotonic() < give_up:
            pass

    def _busy_share(self) -> float:
        before = self.cpu_s()
        time.sleep(QUIET_S)
        return (self.cpu_s() - before) / QUIET_S


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running_service(pin: str | None = None, module: str = "service", **settings: str) -> Iterator[int]:
    """As ``service_process``, but yields only the port."""
    with service_process(pin, module, None, **settings) as service:
        yield service.port


@contextmanager
def service_process(
    pin: str | None = None, module: str = "service", folder: str | None = None, **settings: str
) -> Iterator[Service]:
    """As ``ready_service``, but yields the service once it is settled too."""
    with ready_service(pin, module, folder, **settings) as service:
        service.settle()
        yield service


@contextmanager
def ready_service(
    pin: str | None = None, module: str = "service", folder: str | None = None, **settings: str
) -> Iterator[Service]:
    """Start `python -m MODULE` with GENSERVE_<SETTING>=value for each setting; yields it once it is ready.

    It takes a free port unless the settings name one.

    ``pin`` is a list of cores in taskset's format; None means all. taskset replaces itself with the service, so ``pid``
    is the service's. ``folder`` is the project's tree, by default this one. The log goes to a file: a pipe that nobody
    reads would have the service drop its lines, and measure a service that hardly logs.
    """
    named = {f"GENSERVE_{name.upper()}": value for name, value in settings.items()}
    environment = os.environ | {"GENSERVE_PORT": "0"} | named
    command = [*(["taskset", "-c", pin] if pin else []), sys.executable, "-m", module]
    with tempfile.TemporaryDirectory(prefix="genserve-log-") as scratch:
        path, started = Path(scratch, "log"), time.monotonic()
        with path.open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
        try:
            port = _port(process, path)
            yield Service(port, process.pid, time.monotonic() - started, path)
        finally:
            process.terminate()
            process.wait(STOP_S)


@contextmanager
def some_models(*names: str) -> Iterator[Path]:
    """A weights folder with only these models."""
    with tempfile.TemporaryDirectory(prefix="genserve-weights-") as scratch:
        for name in names:
            (Path(scratch) / name).symlink_to((WEIGHTS / name).resolve())
        yield Path(scratch)


def port_in(log: str) -> int | None:
    """The port that a log tells once the service is ready, None before."""
    found = _RUNNING.search(log)
    return None if found is None else int(found[1])


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    give_up = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < give_up:
        port = port_in(log.read_text(encoding="utf-8", errors="replace"))
        if port is not None:
            return port
        time.sleep(0.01)
    said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"the service did not start (exit code {process.poll()}); its log ends with:\n{said}")
