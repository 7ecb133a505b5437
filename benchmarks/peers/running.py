"""A peer's server on a free port for as long as a measurement lasts, and none of its processes any longer."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from benchmarks.server import free_port

OUR_ENVIRONMENT = Path(sys.prefix)
PEER_ENVIRONMENTS = OUR_ENVIRONMENT / "peers"

START_S, STOP_S = 180.0, 10.0


@dataclass(frozen=True)
class Peer:
    """How one is started: its port comes as the last argument. ``environment`` is its own unless another is named."""

    name: str
    arguments: tuple[str, ...]
    settings: str = ""
    environment: Path | None = None

    @property
    def home(self) -> Path:
        """The environment that it runs in."""
        return self.environment or PEER_ENVIRONMENTS / self.name

    @property
    def installed(self) -> bool:
        """Whether the Makefile could install it: its mark comes last of all."""
        return self.home == OUR_ENVIRONMENT or (self.home / ".ready").exists()


@contextmanager
def running_peer(peer: Peer, cores: str, workers: int, preparation: str) -> Iterator[int]:
    """Start it on ``cores``, as taskset writes them; yields its port once it answers."""
    port, mark = free_port(), uuid.uuid4().hex
    command = ["taskset", "-c", cores, str(peer.home / "bin/python"), *peer.arguments, str(port)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, Path(scratch, "log").open("w+") as log:
        settings = {"PEER_PREPARATION": preparation, "PEER_WORKERS": str(workers), "PEER_MARK": mark}
        # BentoML would write to the home folder and report its use.
        settings |= {"TMPDIR": scratch, "BENTOML_HOME": scratch, "BENTOML_DO_NOT_TRACK": "1", "PYTHONPATH": "."}
        process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_until_ready(process, port)
            yield port
        except Exception as failure:
            log.seek(0)
            failure.add_note(f"{peer.name} said last:\n{log.read()[-2000:]}")
            raise
        finally:
            _stop(process, mark)


def ask(port: int, path: str, seed: int) -> bytes:
    """One picture. Raises OSError or HTTPException when no answer comes, ValueError when it is not 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, f'{{"seed": {seed}}}')
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"{answer.status}, {content[:200]!r}")
    return content


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"ended with exit code {process.returncode} before it answered")
        with suppress(OSError, HTTPException, ValueError):
            ask(port, "/generate", 0)
            return
        time.sleep(0.2)
    raise RuntimeError(f"did not answer within {START_S:.0f} s")


def _stop(process: subprocess.Popen[bytes], mark: str) -> None:
    """Ask it to end; then end every process that has the mark, for some leave the session and outlive their parent."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    for pid in _marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _marked(mark: str) -> list[int]:
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # ended meanwhile, or another user's
            if f"PEER_MARK={mark}".encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found
