"""Raw exchanges with the service: bytes out, the whole answer in."""

import re
import socket
import struct
import time
from contextlib import suppress
from typing import NamedTuple

TIMEOUT_S = 30.0
HOST = b"host: localhost\r\n"

_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


class Reply(NamedTuple):
    """The first response to some bytes: ``status`` is 0 without any HTTP response, ``seconds`` count until its end."""

    status: int
    head: bytes
    body: bytes
    seconds: float

    @property
    def is_problem(self) -> bool:
        """Whether it is a problem document."""
        return b"content-type: application/problem+json" in self.head.lower()

    @property
    def is_server_error(self) -> bool:
        """Whether it is a 5xx, other than a 503 that says when to try again."""
        return self.status >= 500 and not (self.status == 503 and b"\r\nretry-after:" in self.head.lower())


def exchange(port: int, sent: bytes, timeout_s: float = TIMEOUT_S) -> Reply:
    """Send, end the sending half, and read until the service closes. A timeout counts as no response."""
    began, answer = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection, suppress(OSError):
        with suppress(OSError):  # it may be refused, and closed, before all of it is sent
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return reply_of(answer, time.monotonic() - began)


def reply_of(answer: bytes, seconds: float) -> Reply:
    """The first response in what was received."""
    head, _, body = answer.partition(b"\r\n\r\n")
    found = _STATUS.match(head)
    return Reply(int(found[1]) if found else 0, head, body, seconds)


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """A request with a body of a known length."""
    length = (b"content-length: %d" % len(body),) if body else ()
    return b"\r\n".join([line + b" HTTP/1.1", b"host: localhost", *headers, *length, b"", body])


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
