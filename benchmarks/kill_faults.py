"""The service with a planted fault in what happens after an engine has died, to see that `benchmarks.kill` notices it.

KILL_FAULT=lost: rows that the engine had are not sent to its successor. KILL_FAULT=wrong: they are sent with another
seed.

    KILL_FAULT=lost python -m benchmarks.kill_faults
"""

import os
import socket
import sys
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path

from service import __main__ as service
from service.link.pool import EngineLink
from service.processes import api, members
from service.processes.control import Seat
from service.settings import Settings

VARIABLE = "KILL_FAULT"


def lose(link: EngineLink) -> None:
    """Forget the rows that the engine had."""
    link._sent.clear()


def change_seeds(link: EngineLink) -> None:
    """Let the rows that the engine had be of other seeds."""
    for sent in link._sent.values():
        for row in sent.rows.values():
            row.spec = row.spec._replace(seed=row.spec.seed + 1)


FAULTS: dict[str, Callable[[EngineLink], None]] = {"lost": lose, "wrong": change_seeds}


def plant(fault: Callable[[EngineLink], None]) -> None:
    """Have every link of this process commit ``fault`` before it uses an engine's successor."""
    attach = EngineLink.attach

    async def faulty(self: EngineLink, path: Path, inside: Iterable[int]) -> None:
        fault(self)
        await attach(self, path, inside)

    EngineLink.attach = faulty  # type: ignore[method-assign]


def run(connection: Connection, seat: Seat, settings: Settings, sockets: list[socket.socket]) -> None:
    """Be an API process with the fault that the environment names."""
    plant(FAULTS[os.environ[VARIABLE]])
    api.run(connection, seat, settings, sockets)


def main() -> int:
    """Serve until stopped; returns the exit code."""
    members.API = "benchmarks.kill_faults"
    return service.main()


if __name__ == "__main__":
    sys.exit(main())
