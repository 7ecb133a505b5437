"""Distinguishes a client that half-closed its connection, and waits for the response, from one that closed it.

Both have sent the same FIN. Only a closed connection answers data with a reset, after which the next write fails. So
bytes that every response begins with are sent before the response is ready.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

#: Every response begins with this; it is longer than the number of probes.
STATUS_START = b"HTTP/1.1 "

#: Seconds before each probe: short at first, because work for clients that left delays others, then longer, for slow
#: networks and for clients that close later.
PROBE_DELAYS_S = (0.0, 0.005, 0.05, 0.5, 5.0, 30.0, 60.0)


class ProbedTransport:
    """A transport on which part of the status line has been sent; the next write leaves that part out."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._sent = transport, 0

    def probe(self) -> None:
        """Send the next byte of the status line."""
        self._transport.write(STATUS_START[self._sent : self._sent + 1])
        self._sent = min(self._sent + 1, len(STATUS_START))

    def write(self, data: bytes) -> None:
        """Send ``data``; the first one begins with a status line."""
        sent, self._sent = self._sent, 0
        self._transport.write(data[sent:])

    def is_closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once all is sent."""
        self._transport.close()


def probe(cycle: RequestResponseCycle) -> None:
    """Send a byte of the response of ``cycle`` whose value is known in advance, if there is one."""
    if not cycle.response_started:
        if not isinstance(cycle.transport, ProbedTransport):
            cycle.transport = ProbedTransport(cycle.transport)  # type: ignore[assignment]
        cycle.transport.probe()  # type: ignore[attr-defined]
    elif cycle.chunked_encoding and not cycle.response_complete:
        cycle.transport.write(b"0")  # the size of the next chunk may begin with zeros
