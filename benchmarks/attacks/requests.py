"""Attacks with valid requests that cost little to send, and with requests that are none."""

import asyncio
import time
from contextlib import suppress

from benchmarks.attacks.connections import LEAST_MS, SMALL, TIMES
from benchmarks.attacks.watch import Demand, quiet, watching
from benchmarks.connection import Connection
from benchmarks.server import Service

READS = ("/metrics", "/openapi.json", "/docs", "/models", "/stats", "/health", "/")
CLIENTS, SECONDS = 8, 4.0
MALFORMED = 2000


async def cheap_reads(service: Service, scale: float) -> list[Demand]:
    """Eight clients that read the same page as fast as they can."""
    usual = await quiet(service.port, SECONDS * scale)
    demands = []
    for path in READS:
        request = SMALL.replace(b"/health/live", path.encode())
        async with watching(service.port) as watch:
            await asyncio.gather(*(_read(service.port, request, SECONDS * scale) for _ in range(CLIENTS)))
        demands.append(
            Demand(f"{path}: p50 of good requests, ms", watch.p50_ms, max(4 * TIMES * usual.p50_ms, LEAST_MS / 2))
        )
        demands.append(Demand(f"{path}: good requests that failed", watch.failed, 0))
    return demands


async def malformed(service: Service, scale: float) -> list[Demand]:
    """Input that is no HTTP, thousands of times: each one may be worth a line of the log."""
    plain = 0
    async with watching(service.port) as watch:
        for _ in range(round(MALFORMED * scale)):
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            with suppress(OSError):
                writer.write(b"no HTTP\r\n\r\n")
                answer = await reader.read()
                plain += b"application/problem+json" not in answer
            writer.close()
    return [
        Demand("answers that are no problem document", plain, 0),
        Demand("longest wait of a good request, ms", watch.longest_ms, 5 * LEAST_MS),
        Demand("good requests that failed", watch.failed, 0),
    ]


async def _read(port: int, request: bytes, seconds: float) -> None:
    until = time.monotonic() + seconds
    connection = await Connection.open(port)
    with suppress(OSError):
        while time.monotonic() < until:
            await connection.ask(request)
    connection.close()
