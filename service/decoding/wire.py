"""The protocol between the service and a decoder process, over the process's standard input and output.

A request is a head and the file. A reply is a length, JSON of that length, and the bytes whose lengths the JSON has.
"""

import json
import struct
from typing import IO, Any, NamedTuple

_HEAD = struct.Struct("!IIIIQ")
_LENGTH = struct.Struct("!I")


class DecodeRequest(NamedTuple):
    """A file to decode, and the channels and size of the result in pixels."""

    data: bytes
    channels: int
    height: int
    width: int
    max_pixels: int


def send_request(stream: IO[bytes], request: DecodeRequest) -> None:
    """Write one request."""
    stream.write(_HEAD.pack(len(request.data), *request[1:]))
    stream.write(request.data)
    stream.flush()


def read_request(stream: IO[bytes]) -> DecodeRequest | None:
    """The next request, or None at the end of the input."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, *rest = _HEAD.unpack(head)
    return DecodeRequest(stream.read(length), *rest)


def send_reply(stream: IO[bytes], about: dict[str, Any], *contents: bytes) -> None:
    """Write one reply."""
    head = json.dumps({**about, "lengths": [len(each) for each in contents]}).encode()
    stream.write(b"".join((_LENGTH.pack(len(head)), head, *contents)))
    stream.flush()


def read_reply(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """The reply to the last request. Raises EOFError if the process ended instead."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    about = json.loads(_exactly(stream, length))
    return about, [_exactly(stream, each) for each in about["lengths"]]


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
