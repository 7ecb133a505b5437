"""What connections may cost: how many there are, how slowly responses are read, and the memory of what is not read yet.

TCP tells nothing of a client that stops reading, and a response of megabytes waits in this process until it is read.
Closing such a connection with a reset also frees what waits in the kernel.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.metrics import Closed

#: Seconds between two looks at all connections, and seconds over which the rate of a reader is measured: mobile
#: networks pause for seconds. While the service stops, a reader has less time.
LOOK_S = 0.5
WINDOW_S = 10.0
STOPPING_WINDOW_S = 1.0
#: Seconds that every reader gets, also where too much waits for all of them: many may have begun at the same time.
YOUNG_S = 2.0

_RESET = struct.pack("ii", 1, 0)


class Limits(NamedTuple):
    """``read_rate`` is in bytes per second, ``unread_bytes`` that of all connections together."""

    connections: float = sys.maxsize
    read_rate: float = 0.0
    unread_bytes: float = sys.maxsize


NO_LIMITS = Limits()


class Connections(ServerState):
    """All connections of a server. ``closed`` is called with the reason of each one that a limit closed."""

    def __init__(self, limits: Limits = NO_LIMITS, closed: Callable[[Closed], object] = lambda _: None) -> None:
        super().__init__()
        self.limits, self.closed = limits, closed
        #: Whether the service stops: every response is the last one on its connection.
        self.stopping = False
        self.readers = SlowReaders(self)


class _Reading(NamedTuple):
    """Bytes that waited for a reader at a time, when nothing was written since; and bytes that wait now."""

    at_first: int
    since: float
    now: int

    def rate(self, now: float) -> float:
        """Bytes per second that were read."""
        return (self.at_first - self.now) / (now - self.since)


class SlowReaders:
    """Closes connections that read their responses too slowly, and the slowest if too much waits for all of them."""

    def __init__(self, state: Connections) -> None:
        self._state = state
        self._reading: dict[HttpToolsProtocol, _Reading] = {}
        #: Bytes that wait, counted at the last look, and those that began to wait since.
        self._unread = 0

    async def keep_looking(self) -> None:
        """Look at all connections again and again."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def paused(self, transport: asyncio.Transport) -> None:
        """Responses wait on ``transport`` from now on. Nothing is written to it until most of them are read."""
        self._unread += transport.get_write_buffer_size()
        if self._unread > self._state.limits.unread_bytes:
            self.look()

    def look(self) -> None:
        """Close the connections that are too slow, then the slowest ones until the rest needs little enough memory."""
        now = asyncio.get_running_loop().time()
        window_s = STOPPING_WINDOW_S if self._state.stopping else WINDOW_S
        before, self._reading = self._reading, {}
        for each in list(self._state.connections):
            assert isinstance(each, HttpToolsProtocol)
            unread = each.transport.get_write_buffer_size()
            if not unread:
                continue
            last = before.get(each)
            # What is written while a reader is slow stays in the kernel, or pauses writing soon.
            reading = _Reading(unread, now, unread) if last is None or unread > last.now else last._replace(now=unread)
            if now - reading.since >= window_s:
                if reading.rate(now) < self._state.limits.read_rate:
                    self._close(each, "slow-reader")
                    continue
                reading = _Reading(unread, now, unread)
            self._reading[each] = reading
        self._make_room(now)

    def _make_room(self, now: float) -> None:
        self._unread = sum(reading.now for reading in self._reading.values())
        if self._unread <= self._state.limits.unread_bytes:
            return
        old = [(each, reading) for each, reading in self._reading.items() if now - reading.since >= YOUNG_S]
        for each, reading in sorted(old, key=lambda item: item[1].rate(now)):
            self._close(each, "memory")
            del self._reading[each]
            self._unread -= reading.now
            if self._unread <= self._state.limits.unread_bytes:
                return

    def _close(self, connection: HttpToolsProtocol, reason: Closed) -> None:
        with suppress(OSError):
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.transport.abort()
        self._state.closed(reason)
