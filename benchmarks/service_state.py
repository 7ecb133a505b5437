"""What the processes of a running service do: which engine computes, whether there is a spare, who has a connection."""

import asyncio
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from benchmarks.process_tree import PROC, tree
from benchmarks.server import QUIET_S, QUIET_SHARE, Service

_ESTABLISHED = "01"
_SOCKET = re.compile(r"socket:\[(\d+)\]")


def serving_engine(log: str) -> int:
    """The pid of the engine that computes: of two engine processes, the other is the spare."""
    ready = [json.loads(line) for line in log.splitlines() if '"message": "engine ready"' in line]
    pid: int = ready[-1]["pid"]
    return pid


def engines_ended(log: str) -> int:
    """How many engine processes have ended."""
    return log.count('"message": "engine process ended"')


async def spare_ready(service: Service) -> None:
    """Return when there is a spare engine that has loaded its models: it uses hardly any processor time."""
    before = _engines(service)
    while True:
        await asyncio.sleep(QUIET_S)
        now, serving = _engines(service), serving_engine(service.log.read_text())
        if is_quiet(before, now, serving):
            return
        before = now


def is_quiet(before: dict[int, float], now: dict[int, float], serving: int) -> bool:
    """Whether there are engines but ``serving``, and all of them were there and idle between two looks.

    ``before`` and ``now`` are the processor seconds of each engine by its pid.
    """
    spares = set(now) - {serving}
    return bool(spares) and all(pid in before and now[pid] - before[pid] < QUIET_SHARE * QUIET_S for pid in spares)


def _engines(service: Service) -> dict[int, float]:
    return {process.pid: process.cpu_s for process in tree(service.pid) if process.role == "engine"}


def owners(pid: int, port: int, client_ports: Iterable[int], proc: Path = PROC) -> set[int]:
    """Those of the clients' ports whose connections to ``port`` of this machine (IPv4) the process ``pid`` has."""
    inodes = set()
    for link in (proc / str(pid) / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if found := _SOCKET.fullmatch(str(link.readlink())):
                inodes.add(int(found[1]))
    connections = established((proc / "net" / "tcp").read_text(), port)
    return {client for client in client_ports if connections.get(client) in inodes}


def established(table: str, port: int) -> dict[int, int]:
    """The inodes of a server's open connections at ``port`` by the client's port, from /proc/net/tcp."""
    found = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.split(":")[1], 16) for address in fields[1:3])
        if local == port and fields[3] == _ESTABLISHED:
            found[remote] = int(fields[9])
    return found
