"""Frames: a length of four bytes, little-endian, and that many bytes.

They divide the byte stream between an API process and an engine process into messages. What a message means is not
decided here.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

#: The longest payload by default, in bytes. A longer one is a fault of the sender, and buffering it could take all
#: memory.
MAX_FRAME_BYTES = 256 * 2**20
#: How many bytes may wait for a peer that does not read, by default.
MAX_BUFFERED_BYTES = 256 * 2**20
#: How much is read at once, at least. Linux keeps about as much for a Unix socket.
READ_BYTES = 256 * 2**10
#: A buffer that became larger for a large frame is replaced by a small one afterwards. Pages of new memory cost more
#: time than what is copied to them.
KEPT_BYTES = 16 * 2**20
#: What Linux accepts as the path of a Unix socket (unix(7)).
MAX_PATH_BYTES = 107

_LENGTH = struct.Struct("<I")


class FrameTooLarge(Exception):
    """A payload is longer than allowed."""

    def __init__(self, length: int, most: int) -> None:
        super().__init__(f"a frame of {length} bytes is longer than the allowed {most}")


class PeerNotReading(Exception):
    """The peer does not read: more bytes wait for it than allowed."""

    def __init__(self, waiting: int, most: int) -> None:
        super().__init__(f"{waiting} bytes wait for a peer that does not read; at most {most} may")


def frame(payload: bytes, most: int = MAX_FRAME_BYTES) -> bytes:
    """``payload`` with its length in front. Raises FrameTooLarge if it is longer than ``most`` bytes."""
    return head_of(payload, most) + payload


def head_of(payload: bytes, most: int = MAX_FRAME_BYTES) -> bytes:
    """What ``frame`` puts in front."""
    if len(payload) > most:
        raise FrameTooLarge(len(payload), most)
    return _LENGTH.pack(len(payload))


def socket_path(path: str | os.PathLike[str]) -> str:
    """``path`` if a Unix socket can have it. Raises ValueError with the reason if it is too long."""
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise ValueError(f"the path of a Unix socket has at most {MAX_PATH_BYTES} bytes, not {size}: {Path(path)}")
    return os.fspath(path)


class FrameReader:
    """Finds the payloads in a byte stream that arrives in pieces of any size, in linear time.

    Read into ``space()`` and report it with ``filled``, or pass on what was read already with ``feed``. Either gives
    the payloads that became complete, in order; take all of them before the next call. Raises FrameTooLarge at a length
    above ``most``, before any memory is used for that payload. The stream is then of no further use: nobody knows where
    its next frame begins.
    """

    def __init__(self, most: int = MAX_FRAME_BYTES) -> None:
        self._most = most
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._start = self._end = 0  # of what was read and not taken yet: at most one frame, without its end

    def space(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty."""
        return self._buffer[self._end :]

    def filled(self, size: int) -> Iterator[bytes]:
        """The first ``size`` bytes of ``space()`` were read."""
        self._end += size
        while self._end - self._start >= (wanted := self._wanted()):
            payload = bytes(self._buffer[self._start + _LENGTH.size : self._start + wanted])
            self._start += wanted
            yield payload
        self._make_room(wanted)

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """``data`` was read."""
        rest = memoryview(data)
        while len(rest):
            space = self.space()
            size = min(len(space), len(rest))
            space[:size] = rest[:size]
            yield from self.filled(size)
            rest = rest[size:]

    def _wanted(self) -> int:
        """The size of the next frame with its length; of the shortest one while its length is incomplete."""
        if self._end - self._start < _LENGTH.size:
            return _LENGTH.size
        (length,) = _LENGTH.unpack_from(self._buffer, self._start)
        if length > self._most:
            raise FrameTooLarge(length, self._most)
        return _LENGTH.size + int(length)

    def _make_room(self, wanted: int) -> None:
        """Move what is left to the front, of a larger or smaller buffer if ``wanted`` bytes ask for it."""
        left = self._buffer[self._start : self._end]
        size = max(wanted, READ_BYTES)
        if len(self._buffer) < size or len(self._buffer) > max(size, KEPT_BYTES):
            self._buffer = memoryview(bytearray(size))
        self._buffer[: len(left)] = left
        self._start, self._end = 0, len(left)
