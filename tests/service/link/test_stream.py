import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.link.channel import Channel, Listener
from service.link.frames import FrameTooLarge, PeerNotReading, frame
from service.link.stream import FrameStream, connect

END_S = 30.0  # a test that waits for longer has failed


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


class Link:
    """A stream, what its callbacks got, and the connected socket of its peer."""

    stream: FrameStream
    peer: socket.socket

    def __init__(self) -> None:
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.lost: list[Exception | None] = []
        self.then: Callable[[], None] = lambda: None
        self._ended = asyncio.Event()

    def on_frame(self, payload: bytes) -> None:
        self.frames.put_nowait(payload)
        self.then()

    def on_lost(self, reason: Exception | None) -> None:
        self.lost.append(reason)
        self._ended.set()

    async def read(self, count: int) -> list[bytes]:
        return [await asyncio.wait_for(self.frames.get(), END_S) for _ in range(count)]

    async def end(self) -> None:
        await asyncio.wait_for(self._ended.wait(), END_S)


@asynccontextmanager
async def linked(**bounds: int) -> AsyncIterator[Link]:
    link = Link()
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/socket")
        listening.listen()
        link.stream = await connect(f"{folder}/socket", link.on_frame, link.on_lost, **bounds)
        link.peer, _ = listening.accept()
    try:
        yield link
    finally:
        link.peer.close()
        link.stream.close()
        await link.end()


async def test_the_loop_is_the_one_that_is_meant(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    assert ("uvloop" in type(asyncio.get_running_loop()).__module__) == anyio_backend[1]["use_uvloop"]


@settings(deadline=None, max_examples=20)
@given(payloads=st.lists(st.one_of(st.binary(max_size=20), st.integers(0, 600_000).map(bytes)), max_size=5))
async def test_payloads_pass_whole_and_in_order_in_both_directions(payloads: list[bytes]) -> None:
    async with linked() as link:
        channel = Channel(link.peer)
        for payload in payloads:
            link.stream.send(payload)
            channel.send(payload)
        assert await link.read(len(payloads)) == payloads
        assert [await asyncio.to_thread(channel.receive) for _ in payloads] == payloads
        channel.close()


async def test_connecting_to_a_listener(tmp_path: Path) -> None:
    link = Link()
    with closing(Listener(tmp_path / "engine")) as listener:
        stream = await connect(tmp_path / "engine", link.on_frame, link.on_lost)
        channel = listener.accept()
    assert channel is not None
    stream.send(b"rows")
    assert await asyncio.to_thread(channel.receive) == b"rows"
    channel.send(b"pixels")
    channel.close()
    await link.end()
    assert link.frames.get_nowait() == b"pixels"  # sent before the end
    assert stream.closed


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await connect(tmp_path / "engine", print, print)
    with pytest.raises(ValueError, match="at most 107 bytes"):
        await connect(tmp_path / ("a" * 107), print, print)


async def test_the_end_of_the_peer_is_reported_once() -> None:
    async with linked() as link:
        link.peer.sendall(frame(b"last") + frame(b"cut off")[:-1])
        link.peer.close()
        await link.end()
        link.stream.send(b"nobody")
        link.stream.close()
        assert link.frames.get_nowait() == b"last"
    assert link.lost == [None]


async def test_close_is_reported_once_and_ends_the_peer() -> None:
    async with linked() as link:
        link.stream.close()
        link.stream.close()
        assert link.stream.closed
        link.stream.send(b"too late")
        await link.end()
        assert link.peer.recv(100) == b""
    assert link.lost == [None]


async def test_no_frame_comes_after_close() -> None:
    async with linked() as link:
        link.then = link.stream.close
        link.peer.sendall(frame(b"first") + frame(b"second"))
        await link.end()
        assert link.frames.get_nowait() == b"first"
        assert link.frames.empty()


async def test_an_error_in_a_callback_closes_the_stream() -> None:
    def fail() -> None:
        raise LookupError("no such row")

    loop, reported = asyncio.get_running_loop(), list[object]()
    usual = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    try:
        async with linked() as link:
            link.then = fail
            link.peer.sendall(frame(b"first"))
            await link.end()
    finally:
        loop.set_exception_handler(usual)
    (reason,) = link.lost
    assert reported == [reason]
    assert isinstance(reason, LookupError)


async def test_a_peer_that_does_not_read_closes_the_stream_at_the_bound() -> None:
    async with linked(most_buffered=3_000_000) as link:
        while not link.stream.closed:  # each send returns, without a turn of the loop or with one
            assert link.stream.buffered <= 3_000_000
            link.stream.send(bytes(500_000))
            await asyncio.sleep(0)
        await link.end()
    (reason,) = link.lost
    assert isinstance(reason, PeerNotReading)


async def test_a_peer_that_reads_again_gets_everything() -> None:
    payloads = [bytes([index]) * 400_000 for index in range(10)]
    async with linked() as link:
        for payload in payloads:
            link.stream.send(payload)
            await asyncio.sleep(0)
        assert link.stream.buffered > 0
        channel = Channel(link.peer)
        assert [await asyncio.to_thread(channel.receive) for _ in payloads] == payloads
        channel.close()


async def test_a_frame_that_is_too_large() -> None:
    async with linked(most_frame=10) as link:
        with pytest.raises(FrameTooLarge):
            link.stream.send(bytes(11))
        assert not link.stream.closed
        link.peer.sendall(frame(b"ok") + frame(bytes(11)) + frame(b"never"))
        await link.end()
        assert link.frames.get_nowait() == b"ok"
        assert link.frames.empty()
    (reason,) = link.lost
    assert isinstance(reason, FrameTooLarge)
