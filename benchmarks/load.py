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


@dataclass
class Outcome:
    """What a run of the loop saw: answers in the counted time, and the latency of each in milliseconds."""

    seconds: float
    answers: int = 0
    failures: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """The latency that ``share`` of the answers did not exceed, in milliseconds."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def run(port: int, path: str, body: bytes, connections: int, seconds: float, warm_up: float) -> Outcome:
    """``connections`` clients, each asking again once answered; the first ``warm_up`` seconds do not count."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    start = time.perf_counter() + warm_up
    outcome = Outcome(seconds)
    clients = [_client(port, request, start, start + seconds, outcome) for _ in range(connections)]
    await asyncio.gather(*clients)
    return outcome


async def _client(port: int, request: bytes, start: float, end: float, outcome: Outcome) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (asked := time.perf_counter()) < end:
        writer.write(request)
        status = await _answer(reader)
        answered = time.perf_counter()
        if start <= asked and answered <= end:
            outcome.answers += status == 200
            outcome.failures += status != 200
            outcome.latencies_ms.append(1000 * (answered - asked))
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
