"""Redis servers that tests start, stop and kill."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest

from benchmarks.server import free_port

SECONDS = 30.0


class RedisServer:
    """A server on a port of this machine that keeps its data in ``folder``; ``start`` again after ``kill``."""

    def __init__(self, command: str, folder: Path, password: str) -> None:
        self._command, self._folder, self._password = command, folder, password
        self.port = free_port()
        self._parts: dict[Path, int] = {}
        self.start()

    def url(self, part: Path | None = None) -> str:
        """The setting; of a database of its own for each ``part``."""
        number = 0 if part is None else self._parts.setdefault(part, len(self._parts) + 1)
        user = f":{self._password}@" if self._password else ""
        return f"redis://{user}127.0.0.1:{self.port}/{number}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--port", self.port, "--bind", "127.0.0.1", "--dir", self._folder, "--databases", 4096]
        options += ["--requirepass", self._password, "--save", "", "--appendonly", "yes"]
        self._process = subprocess.Popen([self._command, *map(str, options)], stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + SECONDS
        while not self._answers():
            assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < give_up, "redis-server does not answer"
            time.sleep(0.02)

    def hang(self) -> None:
        """Have it accept connections and answer nothing until ``go_on``."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; its data stay."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


@contextmanager
def redis_server(password: str = "") -> Iterator[RedisServer]:
    """A server of its own; the test is skipped where there is no redis-server."""
    command = shutil.which("redis-server")
    if command is None:
        pytest.skip("no redis-server command")
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(command, Path(folder), password)
        try:
            yield server
        finally:
            server.kill()


@cache
def shared_server() -> RedisServer:
    """One server for all tests that do not stop it; ``tests/conftest.py`` ends it."""
    return _RUNNING.enter_context(redis_server())


_RUNNING = ExitStack()


def end_shared_server() -> None:
    """End the server of ``shared_server``, if it runs."""
    _RUNNING.close()
