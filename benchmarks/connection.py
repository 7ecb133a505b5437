"""A minimal keep-alive HTTP connection with one request at a time.

Without asyncio's streams, which cost a client on one core more time than a fast server spends per response.
"""

import asyncio
import os
from typing import NamedTuple, cast


class Answer(NamedTuple):
    """The parts of a response that count."""

    status: int
    retry_after: bool
    content: bytes = b""
    #: Seconds in Retry-After, 0 without it.
    retry_after_s: int = 0


def request_bytes(path: str, body: str) -> bytes:
    """A POST of ``body``, with the API key of the environment if there is one."""
    content, key = body.encode(), os.environ.get("GENSERVE_API_KEY")
    headers = f"Host: localhost\r\nContent-Length: {len(content)}\r\n"
    if key:
        headers += f"Authorization: Bearer {key}\r\n"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode() + content


class Connection(asyncio.Protocol):
    """A client connection; ``is_open`` until either side closes it."""

    def __init__(self) -> None:
        self.is_open = False
        self._received = b""
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a port of this machine."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def ask(self, request: bytes) -> Answer:
        """Send ``request`` and return the response. Raises OSError when the connection closes before it."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    @property
    def local_port(self) -> int:
        """The client's port."""
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are not derived from asyncio's
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Part of the response has arrived."""
        self._received += data
        head, found, content = self._received.partition(b"\r\n\r\n")
        head = head.lower()
        if found and len(content) >= int(head.split(b"content-length:")[1].split(b"\r\n", 1)[0]):
            self._received = b""
            self.is_open = self.is_open and b"\r\nconnection: close" not in head
            if self._answer is not None and not self._answer.done():
                _, found, rest = head.partition(b"\r\nretry-after:")
                wait_s = int(rest.split(b"\r\n", 1)[0]) if found else 0
                self._answer.set_result(Answer(int(head.split(b" ", 2)[1]), bool(found), content, wait_s))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by either side."""
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("closed before the response") if exc is None else exc)
