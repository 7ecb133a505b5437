"""Telling a client that half-closed its connection and waits for the answer from one that has closed it.

Both have sent the same FIN. What differs is what comes back when something is sent to them: from a client that has
closed, a reset, after which the next write fails. So bytes that the answer has anyway are sent before it is ready.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

#: What every answer begins with: more bytes than there are probes.
STATUS_START = b"HTTP/1.1 "

#: Seconds from the first probe to the second, and so on: short ones, because the work of clients that are gone holds up
#: others, then longer ones for slower networks, and for clients that close only later.
PROBE_DELAYS_S = (0.0, 0.005, 0.05, 0.5, 5.0, 30.0, 60.0)


class Begun:
    """The transport of a request whose status line has begun: what was sent of it is left out of the next write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._sent = transport, 0

    def probe(self) -> None:
        """Send the next byte of the status line."""
        self._transport.write(STATUS_START[self._sent : self._sent + 1])
        self._sent = min(self._sent + 1, len(STATUS_START))

    def write(self, data: bytes) -> None:
        """Send ``data``, which begins with a status line where it is the first."""
        sent, self._sent = self._sent, 0
        self._transport.write(data[sent:])

    def is_closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once all is sent."""
        self._transport.close()


def probe(cycle: RequestResponseCycle) -> None:
    """Send a byte of the answer to ``cycle``, where one is known before the answer goes on."""
    if not cycle.response_started:
        if not isinstance(cycle.transport, Begun):
            cycle.transport = Begun(cycle.transport)  # type: ignore[assignment]
        cycle.transport.probe()  # type: ignore[attr-defined]
    elif cycle.chunked_encoding and not cycle.response_complete:
        cycle.transport.write(b"0")  # the size of the next chunk may begin with zeros
