"""Clients in a closed loop whose requests all differ: in prompt, steps, guidance and seed.

Only requests that are sent after the first seconds count. The server's own count of UNet rows gives its speed: requests
that have ended would say little, because one of them may take as long as the measurement.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from math import nan
from typing import NamedTuple

from benchmarks.connection import Connection, request_bytes
from benchmarks.load import p50_p99

CLIENTS = 8
#: Each as probable as the others: those of distilled models, and usual defaults up to that of diffusers.
STEPS = (4, 20, 30, 50)
SHORTEST = STEPS[0]
GUIDANCE = (1.0, 7.5)
_WORDS = ("fox", "harbour", "dawn", "fog", "oil painting", "lighthouse", "northern lights", "photo", "in the rain")


class Ask(NamedTuple):
    """A request for one picture."""

    steps: int
    guidance_scale: float
    body: str


class Sample(NamedTuple):
    """A picture that came: its steps, and the milliseconds from the request to the answer."""

    steps: int
    latency_ms: float


class Counts(NamedTuple):
    """Rows that a server's UNet has computed, and its calls; a guided picture has two rows in each call."""

    rows: float
    calls: float


class Round(NamedTuple):
    """What one measurement found. The latencies are those of the shortest requests; ``answers`` counts all requests."""

    p50_ms: float
    p99_ms: float
    short_answers: int
    answers: int
    row_steps_per_s: float
    rows_per_call: float


def asks(seed: int) -> Iterator[Ask]:
    """The requests of one client, without end; the same for the same ``seed``."""
    chosen = random.Random(seed)
    while True:
        steps, scale = chosen.choice(STEPS), chosen.choice(GUIDANCE)
        prompt = ", ".join(chosen.sample(_WORDS, 4))
        fields = {"prompt": prompt, "steps": steps, "guidance_scale": scale, "seed": chosen.randrange(1 << 31)}
        yield Ask(steps, scale, json.dumps(fields))


async def measure(
    port: int, path: str, count: Callable[[], Counts], seed: int, warm_up_s: float, seconds: float
) -> Round:
    """Ask a server for ``warm_up_s`` and then for ``seconds`` that count. Raises RuntimeError for a wrong status."""
    start = time.perf_counter() + warm_up_s
    end = start + seconds
    clients = [_client(port, path, asks(1000 * seed + number), start, end) for number in range(CLIENTS)]
    samples, counted = await asyncio.gather(asyncio.gather(*clients), _counted(count, start, end))
    return summarise([sample for own in samples for sample in own], *counted)


def summarise(samples: Sequence[Sample], before: Counts, after: Counts, passed_s: float) -> Round:
    """The figures of a measurement; NaN for latencies when it was too short for any of the shortest requests."""
    short = [sample.latency_ms for sample in samples if sample.steps == SHORTEST]
    p50_ms, p99_ms = p50_p99(short) if short else (nan, nan)
    rows, calls = after.rows - before.rows, after.calls - before.calls
    return Round(p50_ms, p99_ms, len(short), len(samples), rows / passed_s, rows / calls)


async def _client(port: int, path: str, requests: Iterator[Ask], start: float, end: float) -> list[Sample]:
    """Send a request after each answer until ``end``; the samples of those that were sent after ``start``."""
    connection, samples = await Connection.open(port), []
    while (sent := time.perf_counter()) < end:
        ask = next(requests)
        answer = await connection.ask(request_bytes(path, ask.body))
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} for {ask.body}: {answer.content[:500]!r}")
        if sent >= start:
            samples.append(Sample(ask.steps, 1000 * (time.perf_counter() - sent)))
    connection.close()
    return samples


async def _counted(count: Callable[[], Counts], start: float, end: float) -> tuple[Counts, Counts, float]:
    """The counts at ``start`` and at ``end``, and the seconds in between."""
    (first, began), (last, ended) = await _at(start, count), await _at(end, count)
    return first, last, ended - began


async def _at(moment: float, count: Callable[[], Counts]) -> tuple[Counts, float]:
    await asyncio.sleep(moment - time.perf_counter())
    return await asyncio.to_thread(count), time.perf_counter()
