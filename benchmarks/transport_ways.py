"""The engine process of ``benchmarks.transport``, and the ways to reach it: each has an engine's and a client's side.

python -m benchmarks.transport_ways WAY PATH     an engine; prints its processor seconds for each line of its input
"""

import asyncio
import mmap
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from service.link.channel import Listener
from service.link.stream import connect

SHAPES = (1, 28, 28), (3, 512, 512)
PIXELS = tuple(os.urandom(prod(shape)) for shape in SHAPES)
#: The client empties a slot before it submits the next request, so that no more than the outstanding ones are full.
SLOT_BYTES, SLOTS = len(PIXELS[1]), 16
TICK_ROWS = 16
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


def run_engine(name: str, path: Path) -> None:
    """The engine process: prints its processor seconds for each line of its input, and ends with it."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    way = WAYS[name]
    engine = Engine(slots_at(path) if way.shares_memory else None)
    threading.Thread(target=way.engine, args=(path, engine), daemon=True).start()
    for _ in sys.stdin:
        print(time.process_time(), flush=True)


def slots_at(path: Path) -> mmap.mmap:
    """The shared memory of the engine at ``path``."""
    with path.with_suffix(".slots").open("r+b") as file:
        return mmap.mmap(file.fileno(), SLOTS * SLOT_BYTES)


if __name__ == "__main__":
    run_engine(sys.argv[1], Path(sys.argv[2]))
