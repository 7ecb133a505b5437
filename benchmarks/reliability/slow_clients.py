"""R9: slow senders, slow readers and endless heads all at once, beside a client that wants pictures."""

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import suppress

import uvloop

from benchmarks.attacks.connections import (
    ALONE_S,
    CUT_S,
    LARGE,
    LEAST_MS,
    SMALL,
    TIMES,
    UNREAD_MIB,
    connecting,
    read_all,
    still_open,
)
from benchmarks.attacks.watch import Demand, quiet, watching
from benchmarks.reliability.bench import Form
from benchmarks.server import Service

#: Connections of each kind: in the long form, and in the quick one.
SENDERS, READERS, HEADS = (500, 100), (100, 20), (20, 4)
#: Bytes of an endless head, which are sent in pieces.
HEAD_BYTES, PIECE = 100 << 20, b"x" * (1 << 18)


def measure(form: Form) -> list[Demand]:
    """Attack a fresh service."""
    with form.service("patient") as service:
        return uvloop.run(attack(service, form))


async def attack(service: Service, form: Form) -> list[Demand]:
    """All three kinds for as long as they may last."""
    port = service.port
    # The service keeps the memory that so many answers need while they are made.
    await asyncio.gather(*(read_all(port, LARGE) for _ in range(form.pick(*READERS))))
    usual, before_mib = await quiet(port, ALONE_S), service.memory_mib()
    with (
        connecting(port, form.pick(*SENDERS)) as senders,
        connecting(port, form.pick(*READERS), receive=4096) as readers,
        connecting(port, form.pick(*HEADS)) as heads,
    ):
        async with watching(port) as watch:
            sending = [asyncio.create_task(_send_head(each)) for each in heads]
            for each in readers:
                each.sendall(LARGE)
            growth_mib = await _drip(senders, service) - before_mib
        kinds = {"slow senders": senders, "slow readers": readers, "endless heads": heads}
        left = {f"of {len(each)} {kind}": len(still_open(each)) for kind, each in kinds.items()}
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    return [
        *(Demand(f"{kind} left after {CUT_S:g} s", count, 0) for kind, count in left.items()),
        Demand("good requests that failed", watch.failed, 0),
        Demand("p99 of good requests, ms", watch.p99_ms, max(TIMES * usual.p99_ms, LEAST_MS)),
        Demand("growth of memory, MiB", growth_mib, UNREAD_MIB),
    ]


async def _drip(senders: Sequence[socket.socket], service: Service) -> float:
    """Send a byte of a head each second; the most memory of the service meanwhile, in MiB."""
    most_mib, began = 0.0, time.monotonic()
    for number in range(round(CUT_S)):
        for each in senders:
            with suppress(OSError):
                each.sendall(SMALL[number : number + 1])
        most_mib = max(most_mib, service.memory_mib())
        await asyncio.sleep(max(0.0, began + number + 1 - time.monotonic()))
    return most_mib


async def _send_head(connection: socket.socket) -> None:
    """Send a head that does not end, until the service closes the connection."""
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        await loop.sock_sendall(connection, b"GET / HTTP/1.1\r\nx: ")
        for _ in range(HEAD_BYTES // len(PIECE)):
            await loop.sock_sendall(connection, PIECE)
