"""The service as a process of its own, and raw connections to it."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
SECONDS = 120.0

#: Every forward pass has the same size, so the same request gives the same bytes, whatever else is computed. Nothing
#: is rejected for load.
SAME_BYTES: dict[str, object] = {
    "engine_threads": 1,
    "deterministic": "true",
    "max_bucket": 4,
    "max_queue_ms": 1e9,
    "max_request_ms": 1e9,
    "client_share": 1.0,
}


class Service:
    """A running `python -m service`, with a client; ``log`` grows while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process = process
        self.log: list[str] = []
        self.port = self.admin_port = 0
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(process.stderr,))
        self._reader.start()
        assert self._ready.wait(SECONDS)
        assert self.port, "".join(self.log)
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=SECONDS)

    def _read(self, stderr: Iterator[str]) -> None:
        for line in stderr:
            self.log.append(line)
            if '"message": "admin port"' in line:
                self.admin_port = json.loads(line)["port"]
            if found := re.search(r"running on http://[^:]+:(\d+)", line):
                self.port = int(found[1])
                self._ready.set()
        self._ready.set()  # it ended: nobody need wait any longer

    def connect(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def fresh(self) -> httpx2.Client:
        """A client with connections of its own, which any API process may get."""
        return httpx2.Client(base_url=self.client.base_url, timeout=SECONDS)

    def stop(self, signal: int) -> int:
        """Send a signal and return the exit code; the log is complete afterwards."""
        self.process.send_signal(signal)
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code

    def kill(self) -> None:
        """End it, unless it has ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join(SECONDS)
        self.client.close()

    def sample(self, *names: str) -> float:
        """The sum of some metrics over all of their labels."""
        wanted = {f"genserve_{name}" for name in names}
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        return sum(sample.value for family in families for sample in family.samples if sample.name in wanted)

    def wait_for(self, *names: str, at_least: float = 0.0, at_most: float = float("inf")) -> None:
        """Return when the sum of some metrics is within bounds."""
        give_up = time.monotonic() + SECONDS
        while not at_least <= (value := self.sample(*names)) <= at_most:
            assert time.monotonic() < give_up, f"{' + '.join(names)} is still {value}"

    def wait_until_idle(self) -> None:
        """Return when no work is accepted and no row is queued or live; the engine tells its rows once a second."""
        self.wait_for("accepted_work_seconds", "queued_rows", "live_rows", at_most=0)

    def processes(self, prefix: str) -> dict[str, int]:
        """The processes whose names begin so, such as "api-" or "engine-", by name."""
        found = {}
        for pid in descendants(self.process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name.startswith(prefix):
                    found[name] = pid
        return found

    def open_files(self) -> int:
        """How many files and sockets the API process has open, without the files of all processes' metrics."""
        pid = self.processes("api-").get("api-0", self.process.pid)
        return sum(not name.endswith(".metrics") for name in self._open_names(pid))

    def _open_names(self, pid: int) -> Iterator[str]:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                yield str(descriptor.readlink())

    def wait_until_closed(self, files: int) -> None:
        """Return when no more than so many files and sockets are open."""
        give_up = time.monotonic() + SECONDS
        while (still := self.open_files()) > files:
            assert time.monotonic() < give_up, f"{still} files are still open"
            self.client.get("/health/live")

    def errors_logged(self) -> list[str]:
        """Lines of the log that tell of something nobody expected."""
        return [line for line in self.log if '"level": "error"' in line or '"level": "critical"' in line]


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process started, and theirs."""
    for entry in Path("/proc").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(entry.name)
                yield from descendants(int(entry.name))


@contextmanager
def serving(weights: Path, **settings: object) -> Iterator[Service]:
    """`python -m service`, on a free port where settings name none, killed at the end if it still runs."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GENSERVE_")}
    environment |= {"GENSERVE_WEIGHTS_DIR": str(weights), "GENSERVE_PORT": "0", "OMP_NUM_THREADS": "1"}
    environment |= {f"GENSERVE_{name.upper()}": str(value) for name, value in settings.items()}
    environment.setdefault("GENSERVE_DEVICE", "cpu")
    with subprocess.Popen(
        [sys.executable, "-m", "service"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            service = Service(process)
        except BaseException:
            process.kill()
            raise
        try:
            yield service
        finally:
            service.kill()


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_to_end(connection: socket.socket, end: bytes | None = None) -> bytes:
    """Everything until the other side closes, with FIN or RST, or until ``end`` has come."""
    answer = b""
    with suppress(ConnectionResetError):
        while (end is None or end not in answer) and (chunk := connection.recv(65_536)):
            answer += chunk
    return answer
