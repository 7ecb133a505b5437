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
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import uvloop

from benchmarks.report import write_record
from service.link.channel import Listener
from service.link.stream import connect

SHAPES = (1, 28, 28), (3, 512, 512)
PIXELS = tuple(os.urandom(prod(shape)) for shape in SHAPES)
#: The client empties a slot before it submits the next request, so that no more than the outstanding ones are full.
SLOT_BYTES, SLOTS = len(PIXELS[1]), 16
TICK_ROWS = 16
WARM_UP_S = 0.2
#: Above this, pyzmq sends a message from where it is instead of copying it.
COPY_BYTES = 65_536

OnFrame = Callable[[bytes], object]


class Row(msgspec.Struct, array_like=True):
    """One picture of a request. Here ``label`` chooses one of SHAPES, and ``guidance_scale`` the seconds of work."""

    index: int
    seed: int
    label: int
    guidance_scale: float


class Submit(msgspec.Struct, array_like=True, tag="submit"):
    """Rows to compute."""

    id: int
    version: int
    expires_at: float
    plans: list[bytes]
    rows: list[Row]


class Done(msgspec.Struct, array_like=True, tag="done"):
    """One row's pixels: ``data``, or what is in ``slot`` of the shared memory."""

    id: int
    row: int
    started_at: float
    shape: tuple[int, ...]
    dtype: str
    data: bytes
    slot: int | None = None


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


def work(seconds: float) -> None:
    """Use the processor for so long."""
    end = time.thread_time() + seconds
    while seconds and time.thread_time() < end:
        pass


class Engine:
    """Answers a frame of ``Submit`` with frames of ``Done``, one for at most TICK_ROWS rows."""

    def __init__(self, slots: mmap.mmap | None) -> None:
        self._decode = msgspec.msgpack.Decoder(list[Submit]).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._slots = slots
        self._used = 0

    def answers(self, payload: bytes) -> Iterator[bytes]:
        """One ``Done`` for each row."""
        rows = [(submit.id, row) for submit in self._decode(payload) for row in submit.rows]
        for start in range(0, len(rows), TICK_ROWS):
            tick = rows[start : start + TICK_ROWS]
            work(sum(row.guidance_scale for _, row in tick))
            yield self._encode([self._done(request, row) for request, row in tick])

    def _done(self, request: int, row: Row) -> Done:
        done = Done(request, row.index, time.monotonic(), SHAPES[row.label], "uint8", PIXELS[row.label])
        if self._slots is not None and len(done.data) == SLOT_BYTES:
            self._used = done.slot = (self._used + 1) % SLOTS
            self._slots[done.slot * SLOT_BYTES : (done.slot + 1) * SLOT_BYTES] = done.data
            done.data = b""
        return done


def sockets_engine(path: Path, engine: Engine) -> None:
    """Serve one client after another over the link as built."""
    listener = Listener(path)
    while (channel := listener.accept()) is not None:
        while (payload := channel.receive()) is not None:
            for answer in engine.answers(payload):
                channel.send(answer)


def pyzmq() -> Any:  # noqa: ANN401  (a module that may be missing)
    """The library, with its ``asyncio``."""
    import_module("zmq.asyncio")
    return import_module("zmq")


def zmq_engine(path: Path, engine: Engine) -> None:
    """Serve clients with a ROUTER."""
    zmq = pyzmq()
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(f"ipc://{path}")
    while True:
        client, payload = router.recv_multipart()
        for answer in engine.answers(payload):
            router.send_multipart([client, answer], copy=len(answer) < COPY_BYTES)


class Client(Protocol):
    """The API process's side: sends frames; ``on_frame`` gets those that come back."""

    def send(self, payload: bytes) -> None:
        """Send one frame."""

    def close(self) -> None:
        """Close the connection."""


async def sockets_client(path: Path, on_frame: OnFrame) -> Client:
    """The link as built."""
    return await connect(path, on_frame, lambda _: None)


class ZmqClient:
    """A DEALER whose file descriptor the event loop watches."""

    def __init__(self, path: Path, on_frame: OnFrame) -> None:
        zmq = pyzmq()
        self._dealer = zmq.Context.instance().socket(zmq.DEALER)
        self._dealer.linger = 0
        self._dealer.connect(f"ipc://{path}")
        self._on_frame = on_frame
        self._loop = asyncio.get_running_loop()
        self._poll_in, self._no_block = zmq.POLLIN, zmq.NOBLOCK
        self._loop.add_reader(self._dealer.fileno(), self._read)

    def send(self, payload: bytes) -> None:
        """Send one frame. The descriptor reports changes only, and a send may use one up: look for messages again."""
        self._dealer.send(payload, self._no_block)
        if self._dealer.events & self._poll_in:
            self._loop.call_soon(self._read)

    def close(self) -> None:
        """Close the connection."""
        self._loop.remove_reader(self._dealer.fileno())
        self._dealer.close()

    def _read(self) -> None:
        while not self._dealer.closed and self._dealer.events & self._poll_in:
            self._on_frame(self._dealer.recv(self._no_block))


async def zmq_client(path: Path, on_frame: OnFrame) -> Client:
    """A DEALER without zmq.asyncio."""
    return ZmqClient(path, on_frame)


class ZmqAsyncioClient:
    """A DEALER of zmq.asyncio."""

    def __init__(self, path: Path, on_frame: OnFrame) -> None:
        zmq = pyzmq()
        self._dealer = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        self._dealer.linger = 0
        self._dealer.connect(f"ipc://{path}")
        self._on_frame = on_frame
        self._task = asyncio.create_task(self._read())

    def send(self, payload: bytes) -> None:
        """Send one frame; it is sent before the call returns unless the queue is full."""
        self._dealer.send(payload)

    def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        self._dealer.close()

    async def _read(self) -> None:
        while True:
            self._on_frame(await self._dealer.recv())


async def zmq_asyncio_client(path: Path, on_frame: OnFrame) -> Client:
    """A DEALER of zmq.asyncio."""
    return ZmqAsyncioClient(path, on_frame)


class Way(NamedTuple):
    """An engine's and a client's side."""

    engine: Callable[[Path, Engine], None]
    client: Callable[[Path, OnFrame], Awaitable[Client]]
    shares_memory: bool = False


WAYS = {
    "Unix sockets": Way(sockets_engine, sockets_client),
    "pyzmq, watched descriptor": Way(zmq_engine, zmq_client),
    "pyzmq, zmq.asyncio": Way(zmq_engine, zmq_asyncio_client),
    "Unix sockets, shared memory": Way(sockets_engine, sockets_client, shares_memory=True),
}


class Load:
    """A closed loop of a case's requests. One turn of the event loop sends one frame."""

    def __init__(self, case: Case, slots: mmap.mmap | None) -> None:
        self._case = case
        self._slots = slots
        self._decode = msgspec.msgpack.Decoder(list[Done]).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._outbox: list[Submit] = []
        self._open: dict[int, tuple[float, list[bytes]]] = {}
        self._submitted = 0
        self._ended: asyncio.Future[None] | None = None
        self.waits_us: list[float] = []

    def start(self, client: Client) -> None:
        """Submit the first requests."""
        self._client = client
        for _ in range(self._case.outstanding):
            self._submit()

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
            asyncio.get_running_loop().call_soon(self._submit)
        elif not self._open:
            self._ended.set_result(None)

    def _submit(self) -> None:
        started = time.perf_counter()
        work(self._case.api_s / 2)
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._submitted += 1
        rows = [Row(index, 2**31 + index, self._case.shape, self._case.engine_s) for index in range(self._case.rows)]
        self._outbox.append(Submit(self._submitted, 1, time.monotonic() + 60, [b"x" * 40], rows))
        self._open[self._submitted] = started, []

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


def run_engine(name: str, path: Path) -> None:
    """The engine process: prints its processor seconds for each line of its input, and ends with it."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    way = WAYS[name]
    engine = Engine(_slots(path) if way.shares_memory else None)
    threading.Thread(target=way.engine, args=(path, engine), daemon=True).start()
    for _ in sys.stdin:
        print(time.process_time(), flush=True)


def _slots(path: Path) -> mmap.mmap:
    with path.with_suffix(".slots").open("r+b") as file:
        return mmap.mmap(file.fileno(), SLOTS * SLOT_BYTES)


@contextmanager
def running(name: str, folder: Path) -> Iterator[Running]:
    """An engine process for a way, ready for clients."""
    way, path = WAYS[name], folder / str(list(WAYS).index(name))
    path.with_suffix(".slots").write_bytes(bytes(SLOTS * SLOT_BYTES if way.shares_memory else 0))
    command = [sys.executable, "-m", "benchmarks.transport", "--engine", name, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None and not path.is_socket():
                time.sleep(0.05)
            time.sleep(0.2)  # it listens soon after it made the file
            yield Running(way, path, process, _slots(path) if way.shares_memory else None)
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
    """Measure and report; with --engine, be an engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds in turn, at least 2 (default 9)")
    parser.add_argument("--seconds", type=float, default=0.6, help="seconds of a burst (default 0.6)")
    parser.add_argument("--engine", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        run_engine(options.engine[0], Path(options.engine[1]))
        return
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
