"""Run the service on a free port for the length of a benchmark."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Service(NamedTuple):
    """A running service."""

    port: int
    pid: int

    def resident_mib(self) -> float:
        """Its resident memory now, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def cpu_s(self) -> float:
        """The processor seconds that it and its child processes have used, those that ended included."""
        return _cpu_s(self.pid)


@contextmanager
def running_service(pin: str | None = None, module: str = "service", **settings: str) -> Iterator[int]:
    """As ``service_process``, but yields only the port."""
    with service_process(pin, module, None, **settings) as service:
        yield service.port


@contextmanager
def service_process(
    pin: str | None = None, module: str = "service", folder: Path | None = None, **settings: str
) -> Iterator[Service]:
    """Start `python -m MODULE` with GENSERVE_<SETTING>=value for each setting; yields it once it is ready.

    ``pin`` is a list of cores in taskset's format; None means all. taskset replaces itself with the service, so ``pid``
    is the service's. ``folder`` is the project's tree, by default this one.
    """
    environment = os.environ | {f"GENSERVE_{name.upper()}": value for name, value in settings.items()}
    environment["GENSERVE_PORT"] = "0"
    command = [*(["taskset", "-c", pin] if pin else []), sys.executable, "-m", module]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        assert process.stderr is not None
        yield Service(_port(process.stderr), process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _cpu_s(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text()
    ticks = sum(map(int, stat.rpartition(")")[2].split()[11:15]))  # utime, stime, and both of children that ended
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return ticks / os.sysconf("SC_CLK_TCK") + sum(map(_cpu_s, children))


def _port(log: Iterator[str]) -> int:
    for line in log:
        message = json.loads(line)["message"]
        if message.startswith("Uvicorn running on"):
            return int(message.split("http://127.0.0.1:")[1].split()[0])
    raise RuntimeError("the service did not start; run `python -m service` to see the reason")
