"""Attacks with connections: answers that are not read, requests in bulk, bodies that do not end, and mere numbers."""

import asyncio
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from benchmarks.attacks.watch import Demand, quiet, watching
from benchmarks.server import Service

#: Longest that a client which holds its connection may last, in seconds; it is looked at this often.
CUT_S, LOOK_S = 15.0, 0.5
#: Seconds of a good client alone, for comparison.
ALONE_S = 3.0
#: How much slower others may become: the 99th percentile of their waits, times that without an attack.
TIMES = 2.0
#: Growth of memory: GENSERVE_MAX_UNREAD_BYTES, and what comes within the two seconds that every reader gets.
UNREAD_MIB = 256.0
#: What a wait may be at most, in milliseconds, where one of a quiet service is much shorter.
LEAST_MS = 100.0

HOST = b"host: localhost\r\n"
#: An answer of 4 MB, computed within milliseconds.
LARGE = b"GET /generate/quick-gan?n=64&scale=8&format=npy HTTP/1.1\r\n" + HOST + b"\r\n"
SMALL = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"


async def slow_readers(service: Service, scale: float) -> list[Demand]:
    """Clients that ask for large answers, two at a time, and read nothing.

    As many that read come first: the service keeps the memory that so many answers need while they are made.
    """
    await asyncio.gather(*(read_all(service.port, LARGE) for _ in range(round(100 * scale))))
    usual = await quiet(service.port, ALONE_S)
    before_mib = service.memory_mib()
    with connecting(service.port, round(100 * scale), receive=4096) as attackers:
        async with watching(service.port) as watch:
            for each in attackers:
                each.sendall(2 * LARGE)
            most_mib = await _until_cut(attackers, service)
        left = len(still_open(attackers))
    return [
        Demand(f"of {len(attackers)} slow readers still connected after {CUT_S:g} s", left, 0),
        Demand("good requests that failed", watch.failed, 0),
        Demand("p99 of good requests, ms", watch.p99_ms, max(TIMES * usual.p99_ms, LEAST_MS)),
        Demand("growth of memory, MiB", most_mib - before_mib, UNREAD_MIB),
    ]


async def read_all(port: int, request: bytes) -> None:
    """Ask once, and read the answer to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    while await reader.read(1 << 20):
        pass
    writer.close()


async def slow_senders(service: Service, scale: float) -> list[Demand]:
    """Clients that send a byte of a head each second (slowloris)."""
    usual = await quiet(service.port, ALONE_S)
    with connecting(service.port, round(500 * scale)) as attackers:
        async with watching(service.port) as watch:
            for second in range(round(CUT_S)):
                for each in attackers:
                    with suppress(OSError):
                        each.sendall(SMALL[second : second + 1])
                await asyncio.sleep(1)
        left = len(still_open(attackers))
    return [
        Demand(f"of {len(attackers)} slow senders still connected after {CUT_S:g} s", left, 0),
        Demand("good requests that failed", watch.failed, 0),
        Demand("p99 of good requests, ms", watch.p99_ms, max(TIMES * usual.p99_ms, LEAST_MS)),
    ]


async def pipelining(service: Service, scale: float) -> list[Demand]:
    """One connection with as many requests as a read of the socket can return."""
    bulk = SMALL * round(252_000 * scale / len(SMALL))
    with connecting(service.port, 1) as (attacker,):
        async with watching(service.port) as watch:
            await asyncio.sleep(0.5)
            attacker.setblocking(False)
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(attacker, bulk))
            answers = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(60):
                    while answers < bulk.count(b"\r\n\r\n"):
                        answers += (await loop.sock_recv(attacker, 1 << 20)).count(b"HTTP/1.1 ")
            await sending
    return [
        Demand("longest wait of a good request, ms", watch.longest_ms, 3 * LEAST_MS),
        Demand("good requests that failed", watch.failed, 0),
    ]


async def held_bodies(service: Service, scale: float) -> list[Demand]:
    """Bodies that are complete but for a byte."""
    size = 13_000_000
    head = b"POST /interpolate HTTP/1.1\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
        HOST,
        size,
    )
    body = b'{"model": "vae", "image_a": "' + b"A" * size
    before_mib = service.memory_mib()
    most_mib = before_mib
    with connecting(service.port, round(60 * scale)) as attackers:
        async with watching(service.port) as watch:
            loop = asyncio.get_running_loop()
            sending = []
            for each in attackers:
                each.setblocking(False)
                sending.append(asyncio.create_task(loop.sock_sendall(each, head + body[: size - 1])))
            for _ in range(20):
                await asyncio.sleep(LOOK_S)
                most_mib = max(most_mib, service.memory_mib())
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
    return [
        # Half of what the setting allows is in copies: the kernel's, and those of bytes that are joined.
        Demand("growth of memory, MiB", most_mib - before_mib, 400),
        Demand("good requests that failed", watch.failed, 0),
    ]


async def many_connections(service: Service, scale: float) -> list[Demand]:
    """Silent connections, far more than there are clients."""
    before_mib = service.memory_mib()
    with connecting(service.port, round(12_000 * scale)) as attackers:
        async with watching(service.port) as watch:
            await asyncio.sleep(2)
        growth_mib, held = service.memory_mib() - before_mib, len(still_open(attackers))
    return [
        Demand("silent connections that are held", held, 10_000),
        Demand("good requests on a connection made before that failed", watch.failed, watch.statuses[503]),
        Demand("growth of memory, MiB", growth_mib, 100),
    ]


async def _until_cut(attackers: Sequence[socket.socket], service: Service) -> float:
    """Wait until all are disconnected, at most ``CUT_S``; the most memory meanwhile, in MiB."""
    most_mib = 0.0
    for _ in range(round(CUT_S / LOOK_S)):
        await asyncio.sleep(LOOK_S)
        most_mib = max(most_mib, service.memory_mib())
        if not still_open(attackers):
            break
    return most_mib


def still_open(connections: Sequence[socket.socket]) -> list[socket.socket]:
    """Those that the service has neither closed nor reset."""
    poll = select.poll()
    for each in connections:
        poll.register(each, select.POLLRDHUP)
    gone = {descriptor for descriptor, _ in poll.poll(0)}
    return [each for each in connections if each.fileno() not in gone]


@contextmanager
def connecting(port: int, count: int, receive: int | None = None) -> Iterator[list[socket.socket]]:
    """Connections to the service; ``receive`` bounds what the client's kernel takes from it."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            each = socket.socket()
            made.append(each)
            if receive is not None:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            each.connect(("127.0.0.1", port))
        yield made
    finally:
        for each in made:
            each.close()
