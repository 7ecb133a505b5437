"""The API process's side of a link: frames over a Unix socket on the event loop, asyncio's or uvloop's."""

import asyncio
import os
from collections.abc import Callable
from typing import cast

from service.link.frames import (
    MAX_BUFFERED_BYTES,
    MAX_FRAME_BYTES,
    FrameReader,
    FrameTooLarge,
    PeerNotReading,
    frame,
    socket_path,
)

OnFrame = Callable[[bytes], object]
OnLost = Callable[[Exception | None], object]


class FrameStream(asyncio.BufferedProtocol):
    """One connection; use it on its event loop only.

    ``on_frame`` gets each payload; if it raises, the stream closes with that. ``on_lost`` is called once, at the end:
    with None after ``close`` or when the peer closed, else with the reason. ``most_frame`` and ``most_buffered`` are
    bounds in bytes.
    """

    def __init__(
        self,
        on_frame: OnFrame,
        on_lost: OnLost,
        most_frame: int = MAX_FRAME_BYTES,
        most_buffered: int = MAX_BUFFERED_BYTES,
    ) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._most_frame = most_frame
        self._most_buffered = most_buffered
        self._reader = FrameReader(most_frame)
        self._error: Exception | None = None

    @property
    def buffered(self) -> int:
        """How many bytes wait because the peer has not read what came before them."""
        return self._transport.get_write_buffer_size()

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def send(self, payload: bytes) -> None:
        """Send one frame; join the messages of one turn of the event loop first. Nothing happens once it is closed.

        Raises FrameTooLarge. If then more than ``most_buffered`` bytes wait, it closes with PeerNotReading.
        """
        data = frame(payload, self._most_frame)
        if self.closed:
            return
        self._transport.write(data)
        if self.buffered > self._most_buffered:
            self._fail(PeerNotReading(self.buffered, self._most_buffered))

    def close(self) -> None:
        """Close it at once; what the peer has not read is dropped."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from asyncio's

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  (the event loop has no better guess)
        """Where to put what arrives."""
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        """A piece of the stream has arrived."""
        try:
            for payload in self._reader.filled(nbytes):
                if self.closed:
                    return
                self._on_frame(payload)
        except FrameTooLarge as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by either side."""
        self._on_lost(self._error or exc)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.close()


async def connect(
    path: str | os.PathLike[str],
    on_frame: OnFrame,
    on_lost: OnLost,
    most_frame: int = MAX_FRAME_BYTES,
    most_buffered: int = MAX_BUFFERED_BYTES,
) -> FrameStream:
    """Connect to a ``Listener`` at ``path``; the arguments are ``FrameStream``'s.

    Raises OSError if nobody listens there, and ValueError for a path that is too long.
    """
    _, stream = await asyncio.get_running_loop().create_unix_connection(
        lambda: FrameStream(on_frame, on_lost, most_frame, most_buffered), socket_path(path)
    )
    return stream
