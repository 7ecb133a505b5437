"""A bounded pool that parses large bodies in threads and decodes pictures in processes.

The service has one pool: waiting bytes, pictures decoded at a time, and the memory and processor time of each are
bounded, however many requests arrive.
"""

import atexit
import logging
import os
import signal
import subprocess
import sys
import threading
from asyncio import CancelledError, wrap_future
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from service.decoding.fit import Decoded, TooManyPixels
from service.decoding.strip import Unreadable
from service.decoding.wire import DecodeRequest, read_reply, send_request
from service.errors import TooBusy
from service.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_ROOT = str(Path(__file__).parents[2])


class DecoderProcess:
    """One decoder process, started on first use and again after it ended."""

    def __init__(self, max_pixels: int, cpu_seconds: float) -> None:
        self._max_pixels = max_pixels
        self._cpu_seconds = cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes, channels: int, height: int, width: int) -> Decoded:
        """As ``fit.decode``. Raises Unreadable also if the picture ended the process."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send_request(process.stdin, DecodeRequest(data, channels, height, width, self._max_pixels))
            about, contents = read_reply(process.stdout)
        except (OSError, EOFError):
            raise Unreadable(self._failure()) from None
        except BaseException:
            self.close()  # else the rest of its reply would be read as the next reply
            raise
        if about.get("error") == "pixels":
            raise TooManyPixels(*about["size"])
        if "error" in about:
            raise Unreadable(about["reason"])
        return Decoded(contents[0], contents[1], (about["size"][0], about["size"][1]), about["coloured"])

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(OSError):  # bytes that were not written yet
                stream.close()
        process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it ended between two pictures: not the next one's fault
        if self._process is None:
            limits = [str(self._max_pixels), str(self._cpu_seconds)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "service.decoding.worker", *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": _ROOT},
            )
        return self._process

    def _failure(self) -> str:
        """Why the process ended during decoding."""
        process = self._process
        assert process is not None
        self.close()
        if process.returncode == -signal.SIGPROF:
            return f"it takes more than {self._cpu_seconds:g} s to decode"
        log.warning("decoder process ended", extra={"returncode": process.returncode})
        return "its decoder failed"


class Readers:
    """``threads`` threads with one decoder process each; up to ``waiting`` further pieces of work may queue."""

    def __init__(self, threads: int, waiting: int, max_pixels: int, cpu_seconds: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._room = threading.Semaphore(threads + waiting)
        self._own = threading.local()
        self._processes: list[DecoderProcess] = []
        self._new_process = partial(DecoderProcess, max_pixels, cpu_seconds)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` in a thread. Raises TooBusy if the queue is full."""
        if not self._room.acquire(blocking=False):
            raise TooBusy
        # Cancelled work stays in the executor's queue until its turn, so its arguments are released separately.
        call = [partial(work, *args, **kwargs)]
        del args, kwargs
        future = self._pool.submit(lambda: call.pop()())

        def done(_: Future[Any]) -> None:
            call.clear()
            self._room.release()

        future.add_done_callback(done)
        try:
            return await wrap_future(future)
        except CancelledError:
            # The future keeps its exception, which keeps the frames it passed through: raise a new one here.
            raise CancelledError from None

    async def decode(self, data: bytes, channels: int, height: int, width: int) -> Decoded:
        """As ``fit.decode``, in a decoder process. Raises TooBusy also."""
        return await self.run(self._decode, data, channels, height, width)

    def close(self) -> None:
        """End the threads, after their current work, and the processes."""
        self._pool.shutdown(cancel_futures=True)
        for process in self._processes:
            process.close()

    def _decode(self, data: bytes, channels: int, height: int, width: int) -> Decoded:
        process: DecoderProcess | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = self._new_process()
            self._processes.append(process)
        return process.decode(data, channels, height, width)


def readers_of(settings: Settings) -> Readers:
    """The pool of this process, shared by all applications with the same settings: its limits protect the machine."""
    return _readers(
        settings.decoders,
        settings.decode_queue,
        int(settings.max_image_megapixels * 1e6),
        settings.decode_cpu_s,
    )


@lru_cache
def _readers(threads: int, waiting: int, max_pixels: int, cpu_seconds: float) -> Readers:
    readers = Readers(threads, waiting, max_pixels, cpu_seconds)
    atexit.register(readers.close)
    return readers
