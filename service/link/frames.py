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
    if len(payload) > most:
        raise FrameTooLarge(len(payload), most)
    return _LENGTH.pack(len(payload)) + payload


def socket_path(path: str | os.PathLike[str]) -> str:
    """``path`` if a Unix socket can have it. Raises ValueError with the reason if it is too long."""
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise ValueError(f"the path of a Unix socket has at most {MAX_PATH_BYTES} bytes, not {size}: {Path(path)}")
    return os.fspath(path)


class FrameReader:
    """Finds the payloads in a byte stream that arrives in pieces of any size, in linear time."""

    def __init__(self, most: int = MAX_FRAME_BYTES) -> None:
        self._most = most
        self._head = b""
        self._body = bytearray()
        self._missing: int | None = None  # bytes of the payload; None while its length is incomplete

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """The payloads that ``data`` completes, in order; take all of them before the next call.

        Raises FrameTooLarge at a length above the limit, before any memory is used for that payload. The stream is
        then of no further use: nobody knows where its next frame begins.
        """
        rest = memoryview(data)
        while len(rest):
            rest = self._take_head(rest) if self._missing is None else self._take_body(rest)
            if self._missing == 0:
                yield self._payload()

    def _take_head(self, rest: memoryview) -> memoryview:
        size = _LENGTH.size - len(self._head)
        self._head += rest[:size]
        if len(self._head) == _LENGTH.size:
            (length,) = _LENGTH.unpack(self._head)
            if length > self._most:
                raise FrameTooLarge(length, self._most)
            self._head, self._missing = b"", length
        return rest[size:]

    def _take_body(self, rest: memoryview) -> memoryview:
        assert self._missing is not None
        size = min(self._missing, len(rest))
        self._body += rest[:size]
        self._missing -= size
        return rest[size:]

    def _payload(self) -> bytes:
        payload, self._body, self._missing = bytes(self._body), bytearray(), None
        return payload
