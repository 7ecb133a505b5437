"""uvicorn's HTTP protocol with two things added.

A connection's running request learns that its client has gone, and a body that came with its head is there at once.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Protocol(HttpToolsProtocol):
    """uvicorn tells only a connection's newest request, which with pipelining is not the one that computes.

    ``scope["state"]["body"]`` is the body once all of it has come: asking for it message by message, within a time,
    costs as much as checking it.
    """

    _running: RequestResponseCycle | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401  (uvicorn's private type)
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """A request has come to its end."""
        super().on_message_complete()
        self.cycle.scope["state"]["body"] = self.cycle.body

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
