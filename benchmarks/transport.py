"""Ways to carry rows and pixels between an API process and an engine process (docs/decisions/0019).

Two processes, each on a core: a client on uvloop that submits a request when another is answered, and an engine that
answers at once all that one frame brought. The ways are measured in turn. The main figure is the processor time of both
processes per request, because it depends least on what else the machine does.

    python -m benchmarks.transport                   a table for each case, and benchmarks/results/transport.json
    python -m benchmarks.transport --rounds 20       closer quartiles

The ways with ZeroMQ need pyzmq, which the project does not depend on; without it they are left out.
"""

import argparse
import asyncio
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks.report import write_record
from benchmarks.transport_ways import SLOT_BYTES, SLOTS, WAYS, Client, Done, Row, Submit, Way, slots_at, work

WARM_UP_S = 0.2


class Case(NamedTuple):
    """``outstanding`` requests of ``rows`` rows each, with results of SHAPES[``shape``].

    ``api_s`` and ``engine_s``: processor seconds that each process spends on a request's and a row's other work.
    """

    name: str
    outstanding: int
    rows: int
    shape: int
    api_s: float = 0.0
    engine_s: float = 0.0


#: What the service spent on a request of one picture in a prototype with two processes.
API_S, ENGINE_S = 180e-6, 265e-6

CASES = (
    Case("1 row of 28 x 28, 64 outstanding", 64, 1, 0),
    Case("16 rows of 28 x 28, 8 outstanding", 8, 16, 0),
    Case("1 row of 28 x 28, a lone client", 1, 1, 0),
    Case("1 row and its other work, 64 outstanding", 64, 1, 0, API_S, ENGINE_S),
    Case("1 row and its other work, a lone client", 1, 1, 0, API_S, ENGINE_S),
    Case("1 row of 512 x 512 x 3, 8 outstanding", 8, 1, 1),
    Case("1 row of 512 x 512 x 3, a lone client", 1, 1, 1),
)


class Burst(NamedTuple):
    """What one burst measured: processor microseconds per request of each process, requests per second, median wait."""

    api_us: float
    engine_us: float
    per_s: float
    p50_us: float


class Load:
    """A closed loop of a case's requests. One turn of the event loop sends one frame."""

    def __init__(self, case: Case, slots: mmap.mmap | None) -> None:
        self._case = case
        self._slots = slots
        self._decode = msgspec.msgpack.Decoder(list[Done]).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._outbox: list[Submit] = []
        self._open: dict[int, tuple[float, list[bytes]]] = {}
        self._arrived = 0
        self._ended: asyncio.Future[None] | None = None
        self.waits_us: list[float] = []

    def start(self, client: Client) -> None:
        """Submit the first requests."""
        self._client = client
        for _ in range(self._case.outstanding):
            self._arrive()

    async def end(self) -> None:
        """Submit no more, and wait for the last answers."""
        self._ended = asyncio.get_running_loop().create_future()
        await self._ended

    def on_frame(self, payload: bytes) -> None:
        """Take the answers of a frame; submit a request for each one that is complete."""
        for done in self._decode(payload):
            started, results = self._open[done.id]
            results.append(self._pixels(done))
            if len(results) == self._case.rows:
                work(self._case.api_s / 2)
                self.waits_us.append(1e6 * (time.perf_counter() - started))
                del self._open[done.id]
                self._next()

    def _pixels(self, done: Done) -> bytes:
        if self._slots is None or done.slot is None:
            return done.data
        return self._slots[done.slot * SLOT_BYTES : (done.slot + 1) * SLOT_BYTES]

    def _next(self) -> None:
        if self._ended is None:
            self._arrive()
        elif not self._open:
            self._ended.set_result(None)

    def _arrive(self) -> None:
        self._arrived += 1
        self._open[self._arrived] = time.perf_counter(), []
        asyncio.get_running_loop().call_soon(self._submit, self._arrived)

    def _submit(self, request: int) -> None:
        work(self._case.api_s / 2)
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        rows = [Row(index, 2**31 + index, self._case.shape, self._case.engine_s) for index in range(self._case.rows)]
        self._outbox.append(Submit(request, 1, time.monotonic() + 60, [b"x" * 40], rows))

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        self._client.send(self._encode(outbox))


@dataclass
class Running:
    """An engine process, and the shared memory that it writes to."""

    way: Way
    path: Path
    process: "subprocess.Popen[str]"
    slots: mmap.mmap | None

    def cpu_s(self) -> float:
        """The processor seconds that it has used."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    async def burst(self, case: Case, seconds: float) -> Burst:
        """Measure a case."""
        load = Load(case, self.slots)
        client = await self.way.client(self.path, load.on_frame)
        load.start(client)
        await asyncio.sleep(WARM_UP_S)
        load.waits_us.clear()
        began, api, engine = time.perf_counter(), time.process_time(), self.cpu_s()
        await asyncio.sleep(seconds)
        took, api, engine = time.perf_counter() - began, time.process_time() - api, self.cpu_s() - engine
        waits = load.waits_us.copy()
        await load.end()
        client.close()
        return Burst(1e6 * api / len(waits), 1e6 * engine / len(waits), len(waits) / took, statistics.median(waits))


@contextmanager
def running(name: str, folder: Path) -> Iterator[Running]:
    """An engine process for a way, ready for clients."""
    way, path = WAYS[name], folder / str(list(WAYS).index(name))
    path.with_suffix(".slots").write_bytes(bytes(SLOTS * SLOT_BYTES if way.shares_memory else 0))
    command = [sys.executable, "-m", "benchmarks.transport_ways", name, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None and not path.is_socket():
                time.sleep(0.05)
            time.sleep(0.2)  # it listens soon after it made the file
            yield Running(way, path, process, slots_at(path) if way.shares_memory else None)
        finally:
            process.kill()


def measure(case: Case, engines: dict[str, Running], rounds: int, seconds: float) -> dict[str, list[Burst]]:
    """Bursts of each way, in turn, every second round the other way round; the first round only warms up."""
    bursts: dict[str, list[Burst]] = {name: [] for name in engines}
    for each in range(rounds + 1):
        for name in list(engines)[:: 1 if each % 2 else -1]:
            burst = uvloop.run(engines[name].burst(case, seconds))
            if each:
                bursts[name].append(burst)
    return bursts


def table(case: Case, bursts: dict[str, list[Burst]]) -> str:
    """Medians, with the quartiles of the sum of both processes."""
    lines = [
        f"| {case.name} | us per request | API + engine | requests/s | p50, us |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, measured in bursts.items():
        api, engine, per_s, p50 = (statistics.median(figures) for figures in zip(*measured, strict=True))
        both = spread([burst.api_us + burst.engine_us for burst in measured])
        lines.append(f"| {name} | {both} | {api:.1f} + {engine:.1f} | {per_s:,.0f} | {p50:,.0f} |")
    return "\n".join(lines)


def spread(figures: Sequence[float]) -> str:
    """The median, and the quartiles in brackets."""
    low, middle, high = statistics.quantiles(figures, n=4, method="inclusive")
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds in turn, at least 2 (default 9)")
    parser.add_argument("--seconds", type=float, default=0.6, help="seconds of a burst (default 0.6)")
    options = parser.parse_args()
    ways = [name for name in WAYS if "zmq" not in name or find_spec("zmq")]
    report(ways, options.rounds, options.seconds)


def report(ways: Sequence[str], rounds: int, seconds: float) -> None:
    """Measure all cases; print the tables and write the record."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    measured = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        engines = {name: stack.enter_context(running(name, folder)) for name in ways}
        for case in CASES:
            shown = {name: each for name, each in engines.items() if case.shape == 1 or not each.way.shares_memory}
            measured[case.name] = measure(case, shown, rounds, seconds)
            print(table(case, measured[case.name]), end="\n\n", flush=True)
    write_record("transport", bursts=measured)


if __name__ == "__main__":
    main()
