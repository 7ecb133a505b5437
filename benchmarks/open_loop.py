"""An open loop of HTTP clients: requests are sent by a fixed schedule, whether earlier ones are answered or not.

A closed loop sends fewer requests to a slow server, which flatters it. Here the load does not depend on the responses,
and latency counts from the scheduled time, so a late client does not hide a slow server ("coordinated omission"). The
client reports its own lag; with a p99 above ``LAG_LIMIT_MS`` the run is void.

As a program it prints one JSON object, so that a benchmark can pin it to a core:

    python -m benchmarks.open_loop --port 8000 --rate 20 --seconds 10 \
        --kind short 9 /generate/ddpm '{"steps": 5}' --kind long 1 /generate/ddpm '{"steps": 100}'
"""

import argparse
import asyncio
import gc
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import uvloop
from pydantic import TypeAdapter

from benchmarks.connection import Answer, Connection, request_bytes
from benchmarks.load import p50_p99

LAG_LIMIT_MS = 5.0

#: A request that is due while this many are open is not sent and counts as failed.
MOST_CONNECTIONS = 10_000


@dataclass(frozen=True)
class Kind:
    """One kind of request, and its weight among the others of a mix."""

    name: str
    weight: float
    path: str
    body: str


class Arrival(NamedTuple):
    """The scheduled time of a request in seconds after the start, and the index of its kind."""

    due_s: float
    kind: int


@dataclass(frozen=True)
class Latencies:
    """The number of responses of one sort, and their latencies; None without any."""

    count: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class KindOutcome:
    """The outcome of the requests of one kind.

    ``ok`` are 200s, ``in_time`` of them within the deadline; ``refused`` are 429s and 503s, ``retry_after`` of them
    with that header; ``expired`` are 504s; ``accepted`` are ok or expired; ``failed`` are all others.
    """

    kind: str
    sent: int
    ok: Latencies
    in_time: int
    refused: Latencies
    retry_after: int
    expired: Latencies
    accepted: Latencies
    failed: int


@dataclass(frozen=True)
class OpenOutcome:
    """The outcome of a run. ``sending_s`` is the length of the schedule; ``last_answer_s`` counts from the start.

    ``sent_until`` is the monotonic clock at the end of the schedule, which all processes of the machine share.
    """

    lag_p99_ms: float
    sending_s: float
    last_answer_s: float
    sent_until: float
    kinds: list[KindOutcome]

    @property
    def void(self) -> bool:
        """Whether the client was too late to measure the server."""
        return self.lag_p99_ms > LAG_LIMIT_MS


OUTCOME = TypeAdapter(OpenOutcome)


def poisson(rate: float, seconds: float, weights: Sequence[float], seed: int) -> list[Arrival]:
    """Arrivals at ``rate`` per second with exponential gaps, kinds drawn by weight; determined by the arguments."""
    generator = random.Random(seed)
    arrivals, due_s = [], generator.expovariate(rate)
    while due_s < seconds:
        arrivals.append(Arrival(due_s, generator.choices(range(len(weights)), weights)[0]))
        due_s += generator.expovariate(rate)
    return arrivals


def latencies(values_ms: Sequence[float]) -> Latencies:
    """Count, median and 99th percentile of the values."""
    return Latencies(len(values_ms), *(p50_p99(values_ms) if values_ms else (None, None)))


@dataclass
class Tally:
    """The responses of one kind, with their latencies in milliseconds."""

    sent: int = 0
    ok: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    expired: list[float] = field(default_factory=list)
    retry_after: int = 0

    def take(self, answer: Answer, latency_ms: float) -> None:
        """Count one response."""
        if answer.status == 200:
            self.ok.append(latency_ms)
        elif answer.status in (429, 503):
            self.refused.append(latency_ms)
            self.retry_after += answer.retry_after
        elif answer.status == 504:
            self.expired.append(latency_ms)

    def outcome(self, kind: str, deadline_ms: float) -> KindOutcome:
        """The summary of all requests so far."""
        return KindOutcome(
            kind,
            self.sent,
            latencies(self.ok),
            sum(latency_ms <= deadline_ms for latency_ms in self.ok),
            latencies(self.refused),
            self.retry_after,
            latencies(self.expired),
            latencies(self.ok + self.expired),
            self.sent - len(self.ok) - len(self.refused) - len(self.expired),
        )


class Client:
    """Keep-alive connections to a server, one per open request, and the responses."""

    def __init__(self, port: int, kinds: Sequence[Kind]) -> None:
        self._port = port
        self._requests = [request_bytes(kind.path, kind.body) for kind in kinds]
        self._idle: list[Connection] = []
        self.tallies = [Tally() for _ in kinds]
        self.lags_ms: list[float] = []
        self.last_answer, self.counts_from = 0.0, 0.0
        self._under_way = 0

    async def ask(self, kind: int, due: float) -> None:
        """Send one request now; without a response it only counts as sent. Before ``counts_from`` it does not count."""
        tally = self.tallies[kind] if due >= self.counts_from else Tally()
        self.lags_ms.append(1000 * (time.perf_counter() - due))
        tally.sent += 1
        self._under_way += 1
        try:
            connection = await self._connection()
            answer = await connection.ask(self._requests[kind])
        except OSError:
            return
        finally:
            self._under_way -= 1
        self.last_answer = time.perf_counter()
        tally.take(answer, 1000 * (self.last_answer - due))
        self._idle.append(connection)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:  # the server may have closed it
                return connection
        if self._under_way > MOST_CONNECTIONS:
            raise OSError("no more connections")
        return await Connection.open(self._port)

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()


async def run(
    port: int,
    kinds: Sequence[Kind],
    arrivals: Sequence[Arrival],
    seconds: float,
    drain_s: float,
    deadline_ms: float,
    warm_up_s: float = 0.0,
) -> OpenOutcome:
    """Send ``arrivals`` within ``seconds``, then wait for responses for at most ``drain_s`` seconds.

    Requests of the first ``warm_up_s`` seconds, in which most connections are made, are sent and not counted.
    """
    client = Client(port, kinds)
    start = time.perf_counter()
    client.counts_from = start + warm_up_s
    asking = [await _ask_when_due(client, start + due_s, kind) for due_s, kind in arrivals]
    await _sleep_until(start + seconds)
    sent_until = time.monotonic()
    if asking:
        _, late = await asyncio.wait(asking, timeout=drain_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    client.close()
    return OpenOutcome(
        latencies(client.lags_ms).p99_ms or 0.0,
        seconds,
        max(0.0, client.last_answer - start),
        sent_until,
        [tally.outcome(kind.name, deadline_ms) for kind, tally in zip(kinds, client.tallies, strict=True)],
    )


async def _ask_when_due(client: Client, due: float, kind: int) -> asyncio.Task[None]:
    await _sleep_until(due)
    return asyncio.create_task(client.ask(kind, due))


async def _sleep_until(when: float) -> None:
    """Never early: the loop's timers round to milliseconds, and the rest is spent spinning."""
    while (left := when - time.perf_counter()) > 0:
        await asyncio.sleep(left)


def main() -> None:
    """Run one loop and print its outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of arrivals (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the schedule (default 0)")
    parser.add_argument("--warm-up", type=float, default=0.0, help="seconds whose requests do not count (default 0)")
    parser.add_argument("--drain", type=float, default=60.0, help="maximum seconds to wait for responses after that")
    parser.add_argument(
        "--deadline-ms", type=float, default=float("inf"), help="latency of a 200 that is in time (default: any)"
    )
    names = ("NAME", "WEIGHT", "PATH", "BODY")
    parser.add_argument("--kind", nargs=4, action="append", required=True, metavar=names, help="may be repeated")
    options = parser.parse_args()
    kinds = [Kind(name, float(weight), path, body) for name, weight, path, body in options.kind]
    arrivals = poisson(options.rate, options.seconds, [kind.weight for kind in kinds], options.seed)
    gc.disable()  # with thousands of open requests a collection delays the schedule by 50 ms
    waits = (options.seconds, options.drain, options.deadline_ms, options.warm_up)
    outcome = uvloop.run(run(options.port, kinds, arrivals, *waits))
    print(OUTCOME.dump_json(outcome).decode())


if __name__ == "__main__":
    main()
