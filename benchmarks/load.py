"""A closed loop of HTTP clients on keep-alive connections, fast enough to saturate a server from one core.

As a program it prints one JSON object, so that a benchmark can pin it to a core:

    python -m benchmarks.load --port 8000 --path /generate/quick-gan --connections 32 --seconds 5
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

import uvloop

from benchmarks.connection import Connection, request_bytes

#: Seconds at the start of a run that do not count.
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """Responses per second within the measured time, those that were not 200, and their latencies in milliseconds.

    ``answers`` is the number of all responses, those of the warm-up included, and ``cpu_s`` the client's processor
    seconds for them.
    """

    answers_per_s: float
    failures: int
    p50_ms: float
    p99_ms: float
    mean_ms: float
    answers: int = 0
    cpu_s: float = 0.0


@dataclass
class Tally:
    """The latency of each counted response in milliseconds, how many were not 200, and the number of all responses."""

    latencies_ms: list[float] = field(default_factory=list)
    failures: int = 0
    answers: int = 0

    def outcome(self, seconds: float, cpu_s: float) -> Outcome:
        """The summary of ``seconds`` seconds, in which the client used ``cpu_s`` processor seconds."""
        answers_per_s, mean_ms = len(self.latencies_ms) / seconds, fmean(self.latencies_ms)
        return Outcome(answers_per_s, self.failures, *p50_p99(self.latencies_ms), mean_ms, self.answers, cpu_s)


async def run(port: int, path: str, body: str, connections: int, seconds: float, warm_up: float) -> Outcome:
    """Run ``connections`` clients that send a request after each response; ``warm_up`` seconds are not counted."""
    request = request_bytes(path, body)
    start, used_s = time.perf_counter() + warm_up, time.process_time()
    tally = Tally()
    await asyncio.gather(*(_client(port, request, start, start + seconds, tally) for _ in range(connections)))
    return tally.outcome(seconds, time.process_time() - used_s)


async def _client(port: int, request: bytes, start: float, end: float, tally: Tally) -> None:
    connection = await Connection.open(port)
    while (sent := time.perf_counter()) < end:
        answer = await connection.ask(request)
        received = time.perf_counter()
        tally.answers += 1
        if start <= received <= end:  # by its end, so that a long request across the start counts
            tally.failures += answer.status != 200
            tally.latencies_ms.append(1000 * (received - sent))
    connection.close()


def p50_p99(latencies_ms: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th percentile of at least one latency."""
    ordered = sorted(latencies_ms)
    return ordered[len(ordered) // 2], ordered[int(0.99 * len(ordered))]


def main() -> None:
    """Run one loop and print its outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", default="")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=WARM_UP_S)
    options = parser.parse_args()
    outcome = uvloop.run(
        run(
            options.port,
            options.path,
            options.body,
            options.connections,
            options.seconds,
            options.warm_up,
        )
    )
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
