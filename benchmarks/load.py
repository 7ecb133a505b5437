"""A closed loop of HTTP clients on keep-alive connections, light enough to drive a server from one core.

As a program it prints one JSON object, so that a benchmark can pin it to a core of its own:

    python -m benchmarks.load --port 8000 --path /generate/gan --connections 32 --seconds 5
"""

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass, field

import uvloop


@dataclass(frozen=True)
class Outcome:
    """What a run of the loop saw: answers in the counted time, by the second and by their latency in milliseconds."""

    answers_per_s: float
    failures: int
    p50_ms: float
    p99_ms: float


@dataclass
class Tally:
    """The latency of each counted answer in milliseconds, and how many were not 200."""

    latencies_ms: list[float] = field(default_factory=list)
    failures: int = 0

    def outcome(self, seconds: float) -> Outcome:
        """The tally of ``seconds``, summed up."""
        ordered = sorted(self.latencies_ms)
        p50, p99 = (ordered[int(share * len(ordered))] for share in (0.5, 0.99))
        return Outcome(len(ordered) / seconds, self.failures, p50, p99)


async def run(port: int, path: str, body: bytes, connections: int, seconds: float, warm_up: float) -> Outcome:
    """``connections`` clients, each asking again once answered; the first ``warm_up`` seconds do not count."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    start = time.perf_counter() + warm_up
    tally = Tally()
    await asyncio.gather(*(_client(port, request, start, start + seconds, tally) for _ in range(connections)))
    return tally.outcome(seconds)


async def _client(port: int, request: bytes, start: float, end: float, tally: Tally) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (asked := time.perf_counter()) < end:
        writer.write(request)
        status = await _answer(reader)
        answered = time.perf_counter()
        if start <= answered <= end:  # by its end: else a long answer across either edge would be lost
            tally.failures += status != 200
            tally.latencies_ms.append(1000 * (answered - asked))
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end; its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.split(b"content-length:")[1].split(b"\r\n", 1)[0]
    await reader.readexactly(int(length))
    return int(head.split(b" ", 2)[1])


def main() -> None:
    """Run one loop and print its outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", default="")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    options = parser.parse_args()
    outcome = uvloop.run(
        run(
            options.port,
            options.path,
            options.body.encode(),
            options.connections,
            options.seconds,
            options.warm_up,
        )
    )
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
