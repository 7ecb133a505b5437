"""The bounds of what readers do at once, and of what one picture may cost."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from service.decoding.pool import DecoderProcess, Readers
from service.decoding.strip import Unreadable
from service.errors import TooBusy
from tests.service.decoding.files import crowded_webp, file_of, noise

MOST = 1_050_000
SECONDS = 30
RED = file_of(Image.new("RGB", (8, 8), "red"), "PNG")


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess(MOST, 5.0)
    yield process
    process.close()


@pytest.fixture
def readers() -> Iterator[Readers]:
    pool = Readers(threads=1, waiting=2, max_pixels=MOST, cpu_seconds=5.0)
    yield pool
    pool.close()


def children() -> set[int]:
    """The processes that this one has started and not ended, by their numbers."""
    return {
        int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and parent_of(each) == os.getpid()
    }


def parent_of(process: Path) -> int:
    with suppress(OSError):
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def test_pictures_are_decoded_one_after_another(decoder: DecoderProcess) -> None:
    for _ in range(3):
        assert decoder.decode(RED, 3, 8, 8).pixels == b"\xff\0\0" * 64
        with pytest.raises(Unreadable):
            decoder.decode(RED[:40], 3, 8, 8)


def test_a_picture_that_needs_much_memory_is_refused(decoder: DecoderProcess) -> None:
    """Its header and its 300 kB promise nothing of the 400 MB that libwebp makes of it."""
    with pytest.raises(Unreadable):
        decoder.decode(crowded_webp(1024), 3, 8, 8)
    assert decoder.decode(RED, 3, 8, 8).pixels == b"\xff\0\0" * 64


def test_a_picture_that_takes_long_is_refused_and_the_next_one_is_decoded() -> None:
    decoder = DecoderProcess(MOST, 0.01)
    before = signal.signal(signal.SIGPROF, signal.SIG_IGN)  # which processes inherit
    try:
        with pytest.raises(Unreadable, match=r"more than 0\.01 s"):
            decoder.decode(file_of(Image.fromarray(noise(1024, 1024, 3)), "WEBP", quality=100), 3, 8, 8)
        with suppress(Unreadable):  # a slow machine may need longer than that for any
            assert decoder.decode(RED, 3, 8, 8).pixels == b"\xff\0\0" * 64
    finally:
        signal.signal(signal.SIGPROF, before)
        decoder.close()


def test_a_decoder_that_was_ended_between_two_pictures_is_started_again(decoder: DecoderProcess) -> None:
    before = children()
    decoder.decode(RED, 3, 8, 8)
    (process,) = children() - before
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert decoder.decode(RED, 3, 8, 8).pixels == b"\xff\0\0" * 64


def test_a_decoder_that_is_closed_is_gone(decoder: DecoderProcess) -> None:
    before = children()
    decoder.decode(RED, 3, 8, 8)
    assert len(children()) == len(before) + 1
    decoder.close()
    assert children() == before


def test_a_decoder_ends_when_the_service_is_killed() -> None:
    script = (
        "import os, sys; from service.decoding.pool import DecoderProcess; decoder = DecoderProcess(100, 5.0);"
        "decoder.decode(sys.stdin.buffer.read(), 3, 8, 8); os.kill(os.getpid(), 9)"
    )
    # The pipe that the decoder inherits ends with the last process that holds it.
    done = subprocess.run([sys.executable, "-c", script], input=RED, stderr=subprocess.PIPE, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, b"")


async def test_beyond_its_room_work_is_refused(readers: Readers) -> None:
    release, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert release.wait(SECONDS)

    running = [asyncio.create_task(readers.run(hold)) for _ in range(3)]
    await asyncio.to_thread(begun.wait, SECONDS)
    with pytest.raises(TooBusy) as failure:
        await readers.decode(RED, 3, 8, 8)
    assert failure.value.retry_after_s
    release.set()
    await asyncio.gather(*running)
    assert (await readers.decode(RED, 3, 8, 8)).size == (8, 8)


class Body(bytearray):
    """Bytes that can be seen to go."""


async def test_work_that_is_cancelled_leaves_neither_its_bytes_nor_its_place(readers: Readers) -> None:
    release, begun = threading.Event(), threading.Event()
    done: list[Body] = []

    def hold() -> None:
        begun.set()
        assert release.wait(SECONDS)

    running = asyncio.create_task(readers.run(hold))
    await asyncio.to_thread(begun.wait, SECONDS)
    for _ in range(3):
        body = Body(b"x")
        gone = weakref.ref(body)
        waiting = asyncio.create_task(readers.run(done.append, body))
        del body
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        del waiting
        gc.collect()
        assert gone() is None
    release.set()
    await running
    assert done == []


def test_what_work_raises_is_raised(readers: Readers) -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(readers.run(divmod, 1, 0))
