"""A load whose every answer is compared with the picture of its seed: what is lost, refused or wrong is counted.

Times are seconds of the monotonic clock.
"""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

from benchmarks.connection import Connection, request_bytes

#: The answer has the picture of its seed; it has another; its status is not 200; the connection broke; none came.
Outcome = Literal["right", "wrong", "refused", "broken", "unanswered"]

#: Of a refusal's answer, so many bytes are kept.
REASON_BYTES = 400


class Ask(NamedTuple):
    """A request, and the body of its right answer."""

    request: bytes
    expected: bytes = b""


class Sample(NamedTuple):
    """What became of one request; ``answered_at`` is when that was known. ``reason`` is of a refusal: its answer."""

    sent_at: float
    answered_at: float
    outcome: Outcome
    reason: str = ""


def asks_of(path: str, body: dict[str, int], seeds: int) -> list[Ask]:
    """Requests for the pictures of seeds from 1 on; what is right is not known yet."""
    return [Ask(request_bytes(path, json.dumps({**body, "seed": seed}))) for seed in range(1, seeds + 1)]


async def with_references(port: int, asks: Iterable[Ask]) -> list[Ask]:
    """``asks`` with what the service answers now, one by one. Raises ValueError unless all are 200s and differ."""
    connection, known = await Connection.open(port), []
    for ask in asks:
        answer = await connection.ask(ask.request)
        if answer.status != 200:
            raise ValueError(f"a reference was answered with {answer.status}: {answer.content[:200]!r}")
        known.append(ask._replace(expected=answer.content))
    connection.close()
    if len({ask.expected for ask in known}) < len(known):
        raise ValueError("two seeds have the same picture: a wrong one would not be noticed")
    return known


async def asked(connection: Connection, ask: Ask, sent_at: float) -> Sample:
    """Send one request and judge its answer. An answer that is not HTTP counts as a broken connection."""
    try:
        answer = await connection.ask(ask.request)
    except (OSError, ValueError, IndexError):
        return Sample(sent_at, time.monotonic(), "broken")
    if answer.status != 200:
        reason = f"{answer.status} {answer.content[:REASON_BYTES].decode(errors='replace')}"
        return Sample(sent_at, time.monotonic(), "refused", reason)
    return Sample(sent_at, time.monotonic(), "right" if answer.content == ask.expected else "wrong")


class CheckedLoad:
    """Requests drawn from ``mix``: lists of asks with their weights. ``samples`` are of all that have ended."""

    def __init__(self, port: int, mix: Sequence[tuple[float, Sequence[Ask]]], seed: int = 0) -> None:
        self._port, self._mix = port, mix
        self._random = random.Random(seed)
        self._idle: list[Connection] = []
        self._open: dict[asyncio.Task[None], float] = {}
        self.samples: list[Sample] = []

    async def capacity(self, connections: int, seconds: float) -> float:
        """Answers per second of a closed loop."""
        began, before = time.monotonic(), len(self.samples)

        async def client() -> None:
            while time.monotonic() < began + seconds:
                await self._ask(self._draw(), time.monotonic())

        await asyncio.gather(*(client() for _ in range(connections)))
        return (len(self.samples) - before) / (time.monotonic() - began)

    @asynccontextmanager
    async def running(self, rate: float, drain_s: float) -> AsyncIterator[None]:
        """Send ``rate`` requests a second at random while the body runs, whether earlier ones are answered or not.

        At the end, requests that have no answer after ``drain_s`` seconds become samples too.
        """
        sending = asyncio.create_task(self._send(rate))
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await self._end(drain_s)
        if not sending.cancelled():
            sending.result()  # raises what ended the load

    async def answered(self, before: float) -> None:
        """Return when no request that was sent before that time is open."""
        while early := [task for task, sent_at in self._open.items() if sent_at < before]:
            await asyncio.wait(early)

    async def _send(self, rate: float) -> None:
        due = time.monotonic()
        while True:
            due += self._random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._ask(self._draw(), time.monotonic()))
            self._open[task] = time.monotonic()
            task.add_done_callback(self._open.pop)

    async def _end(self, drain_s: float) -> None:
        late = {}
        if self._open:
            _, unanswered = await asyncio.wait([*self._open], timeout=drain_s)
            late = {task: self._open[task] for task in unanswered}
        for task, sent_at in late.items():
            task.cancel()
            self.samples.append(Sample(sent_at, time.monotonic(), "unanswered"))
        await asyncio.gather(*late, return_exceptions=True)
        for connection in self._idle:
            connection.close()

    async def _ask(self, ask: Ask, sent_at: float) -> None:
        try:
            connection = await self._connection()
        except OSError:
            self.samples.append(Sample(sent_at, time.monotonic(), "broken"))
            return
        sample = await asked(connection, ask, sent_at)
        self.samples.append(sample)
        if connection.is_open:
            self._idle.append(connection)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return await Connection.open(self._port)

    def _draw(self) -> Ask:
        (asks,) = self._random.choices([asks for _, asks in self._mix], [weight for weight, _ in self._mix])
        return self._random.choice(asks)


def counts(samples: Iterable[Sample]) -> Counter[str]:
    """How many samples have each outcome."""
    return Counter(sample.outcome for sample in samples)


def seconds_until_next(samples: Iterable[Sample], at: float) -> float:
    """Seconds from ``at`` until the first right answer to a request that was sent after it; infinite without any."""
    answered = (each.answered_at for each in samples if each.sent_at > at and each.outcome == "right")
    return min(answered, default=float("inf")) - at


async def keep_asking(connection: Connection, asks: Sequence[Ask], stop: asyncio.Event) -> list[Sample]:
    """What became of request after request on one connection, until ``stop`` is set or it breaks."""
    samples = []
    for ask in itertools.cycle(asks):
        if stop.is_set() or not connection.is_open:
            break
        samples.append(await asked(connection, ask, time.monotonic()))
    return samples
