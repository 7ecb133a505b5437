"""uvicorn's HTTP protocol, hardened for any client and proxy.

- A running request is notified when the client closes the connection; a half-closed connection still gets its answer.
- A body that came with its head is in the request's ``RequestInfo`` before the handler runs.
- The head of a request is bounded in bytes, headers and time, and so is the number of pipelined requests.
- The number of connections is bounded, and so are the time and the memory for responses that are not read.
- A request to switch protocols is answered in HTTP/1.1, with its body. CONNECT is rejected.
- Malformed input does not end the requests before it.
- A response of unknown length to HTTP/1.0 ends with the connection: HTTP/1.0 has no chunks.
- When the service stops, each connection ends with a complete response.
"""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.request_info import WHOLE, Disconnect, RequestInfo, info_of
from service.server.connections import Connections
from service.server.half_closed import PROBE_DELAYS_S, probe
from service.server.rejections import (
    MALFORMED,
    NO_TUNNEL,
    STOPPING,
    TOO_LONG,
    TOO_MANY,
    TOO_MANY_FIELDS,
    TOO_SLOW,
    Rejection,
    rejection_bytes,
    response_bytes,
)

#: Limits of a request's head (first line and headers): bytes, headers, fields of the query, and seconds from its first
#: byte. The limit in bytes also applies to trailers. Headers and fields are counted because a short one costs as much
#: as a long one.
MAX_HEAD_BYTES = 65_536
MAX_HEADERS = MAX_QUERY_FIELDS = 256
MAX_HEAD_S = 10.0

#: Parsing pauses while more requests than these wait behind the running one. That is checked after every slice of
#: input, because one read of a socket returns up to 256,000 bytes, which can hold 14,000 requests.
MOST_PIPELINED = 16
SLICE_BYTES = 4096

#: Bytes of a connection that wait in the kernel to be sent.
UNSENT_BYTES = 131_072

EXTENSIONS: dict[str, dict[object, object]] = {WHOLE: {}}


class Cycle(RequestResponseCycle):
    """A request and its response: HTTP/1.0 gets it without chunks, and a complete one may be one message, ``WHOLE``."""

    #: Called before the head is sent, when the service stops.
    before_head: Callable[[], None] | None = None
    #: Whether the body ends where the connection does.
    _ends_by_closing = False

    async def run_asgi(self, app: Any) -> None:  # noqa: ANN401  (uvicorn's private type)
        """Answer the request. One that is cancelled, because the time to stop is over, is answered too."""
        await super().run_asgi(partial(self._run, app))

    async def _run(self, app: Any, *channels: Any) -> None:  # noqa: ANN401
        try:
            await app(*channels)
            self.before_head = None
        except asyncio.CancelledError:
            if self.response_complete or self.disconnected:
                return
            if not self.response_started:
                self.transport.write(rejection_bytes(STOPPING, self.default_headers))
            self.response_started = self.response_complete = True
            self.transport.close()

    async def send(self, message: Any) -> None:  # noqa: ANN401  (uvicorn's union of messages, and one more)
        """Send a message of ASGI, or status, headers and body at once.

        The headers of a complete response are written unchecked: the service made them itself.
        """
        if self.before_head is not None and not self.response_started:
            self.before_head()
        if message["type"] != WHOLE:
            if self.scope["http_version"] != "1.1":
                self._avoid_chunks(message)
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        headers = [*self.default_headers, *message["headers"]]
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        body = b"" if self.scope["method"] == "HEAD" else message["body"]
        self.transport.write(response_bytes(message["status"], headers, body))
        self.response_started = self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _avoid_chunks(self, message: Any) -> None:  # noqa: ANN401
        """Prepare sending ``message`` to HTTP/1.0: uvicorn would send a body of unknown length in chunks."""
        if message["type"] == "http.response.start":
            if all(name.lower() != b"content-length" for name, _ in message.get("headers", ())):
                self._ends_by_closing, self.chunked_encoding, self.keep_alive = True, False, False
        elif self._ends_by_closing:
            self.expected_content_length = len(message.get("body", b""))


def _info(cycle: RequestResponseCycle) -> RequestInfo:
    return info_of(cycle.scope)  # type: ignore[arg-type]  # uvicorn types scopes as what ASGI itself puts there


def _arrived_bytes(transport: asyncio.Transport) -> int:
    """How many bytes the kernel has that were not read yet."""
    count = bytearray(struct.calcsize("i"))
    with suppress(AttributeError, OSError):  # no socket
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, count)
    return int.from_bytes(count, sys.byteorder)


class Rejected(Exception):
    """A callback of the parser rejects the request, which stops the parser."""

    def __init__(self, rejection: Rejection) -> None:
        self.rejection = rejection


class Protocol(HttpToolsProtocol):
    """One connection.

    ``RequestInfo.body`` is the body once all of it arrived: reading it message by message, within a time limit, costs
    as much as validating it.
    """

    server_state: Connections
    #: The running request. uvicorn's ``cycle`` is the newest one, which with pipelining is another.
    _running: RequestResponseCycle | None = None
    #: Whether input is discarded, because earlier input was rejected.
    _rejected = False
    #: Whether the client closed its sending side.
    _ended = False
    #: Input that is not parsed yet, because many requests wait.
    _unread = b""
    #: Bytes since the last complete head, piece of a body, or end of one.
    _pending_bytes = 0
    #: A request that begins once the response before it is read.
    _held: tuple[RequestResponseCycle, Any] | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _probe_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected. Proxies connect in advance: it may be silent for as long as between two requests."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Else megabytes of a response wait in the kernel, where no limit counts them, and here until all is sent.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._disconnect = Disconnect()
        if len(self.connections) > self.server_state.limits.connections:
            self.server_state.closed("too-many")
            self._reject(TOO_MANY)
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Handle received bytes: of a head, of a body, or of several requests."""
        self._unread = self._unread + data if self._unread else data
        self._read()

    def _read(self) -> None:
        """Parse input until none is left or many requests wait; every iteration consumes at least one byte."""
        self._unset_keepalive_if_required()
        unread = memoryview(self._unread)
        while unread and not self._rejected and len(self.pipeline) <= MOST_PIPELINED:
            unread = unread[self._parse(unread[:SLICE_BYTES]) :]
        self._unread = b"" if self._rejected else bytes(unread)
        if self._busy or self._rejected:
            self._cancel_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(MAX_HEAD_S, self._time_out)

    def _parse(self, data: memoryview) -> int:
        """Parse ``data``; returns the number of bytes consumed: all, or those before another protocol's."""
        self._pending_bytes += len(data)
        done = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            done = self._ignore_upgrade(stopped.args[0])
        except httptools.HttpParserError as failure:
            cause = failure.__context__
            self._reject(cause.rejection if isinstance(cause, Rejected) else MALFORMED)
        if self._pending_bytes > MAX_HEAD_BYTES:
            self._reject(TOO_LONG)
        return done

    def _ignore_upgrade(self, position: int) -> int:
        """Answer in HTTP/1.1 a request that asks to switch protocols, and whose head ends at ``position``.

        curl and Java's client ask for HTTP/2 in this way, with a body. It may be ignored (RFC 9110, section 7.8), but
        the parser has stopped there: it takes the body for the other protocol's. So a new parser reads the head again,
        without the Upgrade header, and then what follows.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT" or position < 1:
            self._reject(NO_TUNNEL if method == b"CONNECT" else MALFORMED)
            return max(1, position)
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        try:
            self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reject(MALFORMED)
        return position

    @property
    def _busy(self) -> bool:
        """Whether a request is unanswered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _owes_answer(self) -> bool:
        """Whether a complete request is unanswered."""
        last = self.cycle
        return self._busy and not (last is self._running and last.more_body and not last.response_started)

    def _reject(self, rejection: Rejection) -> None:
        """Stop reading and close the connection: after the pending responses, or after an error response."""
        self._rejected = True
        self._cancel_head_timer()
        if self.transport.is_closing():
            return
        if self._owes_answer:
            self.cycle.keep_alive = False
            return
        self.transport.write(rejection_bytes(rejection, self.server_state.default_headers))
        self.transport.close()

    def _time_out(self) -> None:
        """Close the connection because no head arrived in time; with an error response if a part of it did."""
        if self._pending_bytes:
            self._reject(TOO_SLOW)
        else:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client closed its sending side. Returns whether the connection stays open for pending responses."""
        self._ended = True
        if not self._owes_answer:
            return False
        if self._probe_timer is None:
            self._probe(iter(PROBE_DELAYS_S))
        return True

    def _probe(self, delays: Iterator[float]) -> None:
        """Send a byte of the running request's response, now and after each of the delays."""
        if self._running is not None and not self.transport.is_closing():
            probe(self._running)
            delay = next(delays, None)
            if delay is not None:
                self._probe_timer = self.loop.call_later(delay, self._probe, delays)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def pause_writing(self) -> None:
        """Much of a response waits for the client to read."""
        super().pause_writing()
        self.server_state.readers.paused(self.transport)

    def resume_writing(self) -> None:
        """Most of it is read: the next request may begin."""
        super().resume_writing()
        held, self._held = self._held, None
        if held is not None:
            self._start_asgi_task(*held)

    def end_soon(self) -> None:
        """Make the running request's response the last one, if its head is not sent and no other request waits then."""
        if isinstance(self._running, Cycle):
            self._running.before_head = self._end_with_response

    def _end_with_response(self) -> None:
        if self.cycle is self._running and not self._unread:
            self.cycle.keep_alive = False

    def end(self) -> bool:
        """Close the connection after its last response; False while a request may be on its way."""
        if self._busy:
            self.cycle.keep_alive = False
            return True
        if self.cycle is None or self._pending_bytes or self._unread or _arrived_bytes(self.transport):
            return self.transport.is_closing()
        self.transport.close()
        return True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401  (uvicorn's private type)
        if self.flow.write_paused:  # another response would wait in memory behind this one
            self._held = (cycle, app)
            return
        self._running = cycle
        cycle.__class__ = Cycle  # uvicorn has no setting for it
        cycle.scope["extensions"] = EXTENSIONS
        _info(cycle).disconnect = self._disconnect
        if self.server_state.stopping:
            self.end_soon()
        super()._start_asgi_task(cycle, app)

    def on_headers_complete(self) -> None:
        """A head is complete."""
        if len(self.headers) > MAX_HEADERS:
            raise Rejected(TOO_LONG)
        if self.url.count(b"&") >= MAX_QUERY_FIELDS:
            raise Rejected(TOO_MANY_FIELDS)
        if not self.parser.should_upgrade():
            self._pending_bytes = 0
            super().on_headers_complete()
            # Trailers must not be used as headers (RFC 9110, section 6.5.1).
            self.headers = []
            self._resume_reading()

    def on_body(self, body: bytes) -> None:
        """A part of a body arrived."""
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        if not self.parser.should_upgrade():
            self._pending_bytes = 0
            super().on_message_complete()
            _info(self.cycle).body = self.cycle.body
            self._resume_reading()

    def on_response_complete(self) -> None:
        """A response is sent: parse what arrived meanwhile, or close after the last response."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._unread:
            self._read()
        if self._ended and not self._busy:
            self.transport.close()

    def _resume_reading(self) -> None:
        """Resume reading: uvicorn pauses after large or pipelined bodies, which hides disconnects."""
        if len(self.pipeline) <= MOST_PIPELINED:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by either side."""
        super().connection_lost(exc)
        self._unread, self._held = b"", None
        self._cancel_head_timer()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self._disconnect.notify()
