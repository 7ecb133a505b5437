"""An open loop of HTTP clients: requests are sent when a schedule made up front says so, answered or not.

A closed loop asks less of a slow server, which flatters it. Here the load does not depend on the answers, and a latency
counts from the moment its request was due, so that a client held up is not taken for a fast server ("coordinated
omission"). How late the client itself was is told as its lag: with a p99 above ``LAG_LIMIT_MS`` the run is void.

As a program it prints one JSON object, so that a benchmark can pin it to a core of its own:

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

#: A request that is due while so many are under way is not sent, and has failed.
MOST_CONNECTIONS = 10_000


@dataclass(frozen=True)
class Kind:
    """One kind of request, and its weight among the others of a mix."""

    name: str
    weight: float
    path: str
    body: str


class Arrival(NamedTuple):
    """When a request is due, in seconds after the start, and the index of its kind."""

    due_s: float
    kind: int


@dataclass(frozen=True)
class Latencies:
    """How many answers of one sort, and their latencies; None where there was no such answer."""

    count: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class KindOutcome:
    """What became of the requests of one kind.

    ``ok`` are 200s, ``in_time`` of them within the deadline; ``refused`` are 429s and 503s, ``retry_after`` of them
    with that header; ``expired`` are 504s; ``accepted`` are ok or expired; ``failed`` are any other answer or none.
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
    """What a run saw. ``sending_s`` is how long requests were due; ``last_answer_s`` counts from the start.

    ``sent_until`` is the monotonic clock at the end of the sending, which other processes of the machine share.
    """

    lag_p99_ms: float
    sending_s: float
    last_answer_s: float
    sent_until: float
    kinds: list[KindOutcome]

    @property
    def void(self) -> bool:
        """Whether the client was too late to speak of the server."""
        return self.lag_p99_ms > LAG_LIMIT_MS


OUTCOME = TypeAdapter(OpenOutcome)


def poisson(rate: float, seconds: float, weights: Sequence[float], seed: int) -> list[Arrival]:
    """Requests at ``rate`` a second with exponential gaps, kinds drawn by weight; the same for the same arguments."""
    generator = random.Random(seed)
    arrivals, due_s = [], generator.expovariate(rate)
    while due_s < seconds:
        arrivals.append(Arrival(due_s, generator.choices(range(len(weights)), weights)[0]))
        due_s += generator.expovariate(rate)
    return arrivals


def latencies(values_ms: Sequence[float]) -> Latencies:
    """The values, summed up."""
    return Latencies(len(values_ms), *(p50_p99(values_ms) if values_ms else (None, None)))


@dataclass
class Tally:
    """The answers of one kind as they come, with their latencies in milliseconds."""

    sent: int = 0
    ok: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    expired: list[float] = field(default_factory=list)
    retry_after: int = 0

    def take(self, answer: Answer, latency_ms: float) -> None:
        """Count one answer."""
        if answer.status == 200:
            self.ok.append(latency_ms)
        elif answer.status in (429, 503):
            self.refused.append(latency_ms)
            self.retry_after += answer.retry_after
        elif answer.status == 504:
            self.expired.append(latency_ms)

    def outcome(self, kind: str, deadline_ms: float) -> KindOutcome:
        """Everything so far, summed up."""
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
    """Keep-alive connections to a server, as many as there are requests under way, and what came over them."""

    def __init__(self, port: int, kinds: Sequence[Kind]) -> None:
        self._port = port
        self._requests = [request_bytes(kind.path, kind.body) for kind in kinds]
        self._idle: list[Connection] = []
        self.tallies = [Tally() for _ in kinds]
        self.lags_ms: list[float] = []
        self.last_answer = 0.0
        self._under_way = 0

    async def ask(self, kind: int, due: float) -> None:
        """One request, now; no answer to it leaves it sent and nothing else."""
        self.lags_ms.append(1000 * (time.perf_counter() - due))
        self.tallies[kind].sent += 1
        self._under_way += 1
        try:
            connection = await self._connection()
            answer = await connection.ask(self._requests[kind])
        except OSError:
            return
        finally:
            self._under_way -= 1
        self.last_answer = time.perf_counter()
        self.tallies[kind].take(answer, 1000 * (self.last_answer - due))
        self._idle.append(connection)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:  # the server may have closed it meanwhile
                return connection
        if self._under_way > MOST_CONNECTIONS:
            raise OSError("no more connections")
        return await Connection.open(self._port)

    def close(self) -> None:
        """Close the connections that are not in use."""
        for connection in self._idle:
            connection.close()


async def run(
    port: int, kinds: Sequence[Kind], arrivals: Sequence[Arrival], seconds: float, drain_s: float, deadline_ms: float
) -> OpenOutcome:
    """Send ``arrivals``, which are due within ``seconds``, then wait for answers, ``drain_s`` at most."""
    client = Client(port, kinds)
    start = time.perf_counter()
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
    """Never early: the loop's timers round to milliseconds, and what they round off is spun away."""
    while (left := when - time.perf_counter()) > 0:
        await asyncio.sleep(left)


def main() -> None:
    """Run one loop and print its outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to send (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default 0)")
    parser.add_argument("--drain", type=float, default=60.0, help="most seconds to wait for answers after that")
    parser.add_argument("--deadline-ms", type=float, default=float("inf"), help="which 200s are in time (default all)")
    names = ("NAME", "WEIGHT", "PATH", "BODY")
    parser.add_argument("--kind", nargs=4, action="append", required=True, metavar=names, help="may be repeated")
    options = parser.parse_args()
    kinds = [Kind(name, float(weight), path, body) for name, weight, path, body in options.kind]
    arrivals = poisson(options.rate, options.seconds, [kind.weight for kind in kinds], options.seed)
    gc.disable()  # with thousands of requests under way a collection holds the schedule up for 50 ms
    outcome = uvloop.run(run(options.port, kinds, arrivals, options.seconds, options.drain, options.deadline_ms))
    print(OUTCOME.dump_json(outcome).decode())


if __name__ == "__main__":
    main()
