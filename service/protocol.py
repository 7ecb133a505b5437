"""uvicorn's HTTP protocol with six things added.

A connection's running request learns that its client has gone; a body that came with its head is there at once; an
answer that is whole is written in one piece; a head that is too long, or takes too long, ends its connection; a request
to speak another protocol is answered in this one, body and all; and what is no HTTP does not end what was asked before.
"""

import asyncio
import sys
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.extensions import STATE, WHOLE, Departure

#: Bounds of a request's head, its first line and headers: bytes (checked when it comes in pieces) and seconds. So many
#: bytes may come of anything else that is neither head nor body, such as what follows the last chunk of a body.
MAX_HEAD_BYTES = 65_536
MAX_HEAD_S = 10.0

#: Requests that wait behind the running one while the connection is still read.
MOST_PIPELINED = 16

TOO_LONG = (431, b"Request Header Fields Too Large")
TOO_SLOW = (408, b"Request Timeout")

EXTENSIONS: dict[str, dict[object, object]] = {WHOLE: {}}


class Cycle(RequestResponseCycle):
    """A request and its answer, which may also be sent as one message of type ``WHOLE``."""

    async def send(self, message: Any) -> None:  # noqa: ANN401  (uvicorn's union of messages, and one more)
        """Send a message of ASGI, or status, headers and body at once.

        The headers of a whole answer are written as they are: theirs are the service's own words, and going through
        them as uvicorn does costs more than all else of sending.
        """
        if message["type"] != WHOLE:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        headers = [*self.default_headers, *message["headers"]]
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        head = b"\r\n".join(map(b": ".join, headers))
        body = b"" if self.scope["method"] == "HEAD" else message["body"]
        self.transport.write(b"%b%b\r\n\r\n%b" % (STATUS_LINE[message["status"]], head, body))
        self.response_started = self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Protocol(HttpToolsProtocol):
    """uvicorn tells only a connection's newest request, which with pipelining is not the one that computes.

    ``scope["state"]["body"]`` is the body once all of it has come: asking for it message by message, within a time,
    costs as much as checking it.
    """

    _running: RequestResponseCycle | None = None
    _broken = False
    #: What came since the last whole head, piece of a body, or end of one.
    _pending_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _data = _unread = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; it need not send, but not for ever."""
        super().connection_made(transport)
        self._departure = Departure()
        self._head_timer = self.loop.call_later(MAX_HEAD_S, self._refuse, TOO_SLOW)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: of a head, of a body, or of several requests."""
        while data and not self._broken and not self.transport.is_closing():
            self._pending_bytes += len(data)
            self._data, self._unread = data, b""
            super().data_received(data)
            data = self._unread
        self._data = b""
        if self._pending_bytes > MAX_HEAD_BYTES:
            self._refuse(TOO_LONG)
        elif self._busy:
            self._forget_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(MAX_HEAD_S, self._refuse, TOO_SLOW)

    @property
    def _busy(self) -> bool:
        """Whether a request is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _wants_upgrade(self) -> bool:
        """Whether the client would speak another protocol from here on; CONNECT has no path to be served at."""
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        """The parser has stopped behind the head of such a request: have it read that again, without the wish.

        curl and Java's client wish for HTTP/2 so, and send a body. It may be ignored (RFC 9110, section 7.8), but the
        parser takes the body for the other protocol's, and uvicorn what follows for the next request.
        """
        stopped = sys.exc_info()[1]
        assert stopped is not None
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self._pending_bytes = 0
        self._unread = b"\r\n".join([*lines, b"", b""]) + self._data[stopped.args[0] :]

    def send_400_response(self, msg: str) -> None:
        """What has come is no HTTP: say so, unless a whole request is yet to be answered, which then is the last."""
        self._broken = True
        last = self.cycle
        whole = self._busy and not (last is self._running and last.more_body and not last.response_started)
        if whole:
            last.keep_alive = False
        else:
            super().send_400_response(msg)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, answer: tuple[int, bytes]) -> None:
        """End the connection; say why where that can be told from another request's answer, and something had come."""
        self._forget_timer()
        if not self.transport.is_closing():
            if self._pending_bytes and not self._busy:
                status, phrase = answer
                self.transport.write(
                    b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % (status, phrase)
                )
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401  (uvicorn's private type)
        self._running = cycle
        cycle.__class__ = Cycle  # uvicorn has no place where one would say so
        cycle.scope["extensions"] = EXTENSIONS
        cycle.scope["state"][STATE] = self._departure
        super()._start_asgi_task(cycle, app)

    def on_headers_complete(self) -> None:
        """A head has come to its end."""
        self._pending_bytes = 0
        if not self._wants_upgrade:
            super().on_headers_complete()
            # What comes behind the body says nothing of how the request is to be handled (RFC 9110, section 6.5.1).
            self.headers = []
            self._read_on()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come."""
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come to its end."""
        self._pending_bytes = 0
        if not self._wants_upgrade:
            super().on_message_complete()
            self.cycle.scope["state"]["body"] = self.cycle.body
            self._read_on()

    def _read_on(self) -> None:
        """uvicorn reads no further behind a large body, or while a request waits: it would not see the client leave."""
        if len(self.pipeline) <= MOST_PIPELINED:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        super().connection_lost(exc)
        self._forget_timer()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self._departure.happen()
