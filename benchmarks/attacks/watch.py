"""What others notice of an attack: requests of a good client, and the memory of the service."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.connection import Connection, request_bytes
from benchmarks.load import p50_p99
from benchmarks.server import Service

GOOD = request_bytes("/generate/quick-gan", '{"seed": 1}')
EVERY_S = 0.02


class Demand(NamedTuple):
    """One demand of an attack: a figure that is at most ``most``."""

    text: str
    figure: float
    most: float

    @property
    def met(self) -> bool:
        """Whether the figure is within its limit."""
        return self.figure <= self.most


#: An attack; ``scale`` is 1 for the long form and less for a short one.
Attack = Callable[[Service, float], Coroutine[Any, Any, list[Demand]]]


@dataclass
class Watch:
    """The answers to a good client, by status (0: the connection broke), and the milliseconds that it waited."""

    waits_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    started_at: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> int:
        """How many requests were not answered with a picture."""
        return self.statuses.total() - self.statuses[200]

    @property
    def longest_ms(self) -> float:
        """The longest wait."""
        return max(self.waits_ms, default=float("inf"))

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the waits."""
        return p50_p99(self.waits_ms)[1] if self.waits_ms else float("inf")

    @property
    def p50_ms(self) -> float:
        """The median of the waits."""
        return p50_p99(self.waits_ms)[0] if self.waits_ms else float("inf")


@asynccontextmanager
async def watching(port: int, good: bytes = GOOD) -> AsyncIterator[Watch]:
    """A good client that asks fifty times a second, or as soon as it is answered."""
    watch = Watch()
    asking = asyncio.create_task(_keep_asking(port, watch, good))
    try:
        yield watch
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def quiet(port: int, seconds: float) -> Watch:
    """The waits of a good client alone, for comparison."""
    async with watching(port) as watch:
        await asyncio.sleep(seconds)
    return watch


async def _keep_asking(port: int, watch: Watch, good: bytes) -> None:
    connection: Connection | None = None
    while True:
        began = time.monotonic()
        try:
            if connection is None or not connection.is_open:
                connection = await Connection.open(port)
            status = (await connection.ask(good)).status
        except OSError:
            status = 0
        watch.statuses[status] += 1
        watch.waits_ms.append(1000 * (time.monotonic() - began))
        await asyncio.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
