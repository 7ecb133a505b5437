"""A bounded pool that turns what clients send into values: large bodies in threads, pictures in processes.

Its bounds are the process's: however many requests come, so many bytes wait, so many pictures are decoded at once, and
each costs at most so much memory and processor time.
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
    """One process that decodes, started when it is needed, and again after it was ended."""

    def __init__(self, max_pixels: int, cpu_seconds: float) -> None:
        self._max_pixels = max_pixels
        self._cpu_seconds = cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes, channels: int, height: int, width: int) -> Decoded:
        """As ``fit.decode``; Unreadable too where the process was ended by the picture."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send_request(process.stdin, DecodeRequest(data, channels, height, width, self._max_pixels))
            about, contents = read_reply(process.stdout)
        except (OSError, EOFError):
            raise Unreadable(self._failure()) from None
        except BaseException:
            self.close()  # what is left of its reply would be read as the next one's
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
            with suppress(OSError):  # what was still to be written to it
                stream.close()
        process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it was ended between two pictures, which is not the next one's fault
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
        """Why the process ended while it decoded."""
        process = self._process
        assert process is not None
        self.close()
        if process.returncode == -signal.SIGPROF:
            return f"it takes more than {self._cpu_seconds:g} s to decode"
        log.warning("decoder process ended", extra={"returncode": process.returncode})
        return "its decoder failed"


class Readers:
    """``threads`` threads with a decoder process each, and room for ``waiting`` pieces of work beside theirs."""

    def __init__(self, threads: int, waiting: int, max_pixels: int, cpu_seconds: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._room = threading.Semaphore(threads + waiting)
        self._own = threading.local()
        self._processes: list[DecoderProcess] = []
        self._new_process = partial(DecoderProcess, max_pixels, cpu_seconds)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns or raises, in a thread. Raises TooBusy where there is no room."""
        if not self._room.acquire(blocking=False):
            raise TooBusy
        # Cancelled work stays in the executor's queue until its turn. Its bytes must not: many may come and go.
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
            # The future keeps the exception that it raised, and that one the frames it passes: this is the last.
            raise CancelledError from None

    async def decode(self, data: bytes, channels: int, height: int, width: int) -> Decoded:
        """As ``fit.decode``, in a process. Raises TooBusy too."""
        return await self.run(self._decode, data, channels, height, width)

    def close(self) -> None:
        """End the threads, after what they do, and the processes."""
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
    """The pool of this process. Its bounds are the machine's, so that applications with the same settings share it."""
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
