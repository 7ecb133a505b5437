"""What is known of one HTTP request beside its bytes, under one key of the ASGI scope.

The service's own HTTP protocol (``server/protocol.py``) fills in the body and reports disconnects. Behind another ASGI
server both are missing: handlers then read the body message by message, and finish work for clients that left.
"""

import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from service.access.keys import Caller
from service.errors import ServiceError

#: Where a scope's state holds its ``RequestInfo``.
KEY = "info"

#: An ASGI extension of the service's protocol, and the type of its message: status, headers and body of a complete
#: response at once. Sent as two messages, with every header checked, a response costs several percent of a request.
WHOLE = "genserve.response.whole"


class Disconnect:
    """Whether the client closed the connection, and the callback for when it does.

    ASGI's own way is a task that waits in ``receive``; it costs more than the answer of a quick model.
    """

    __slots__ = ("_callback", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._callback: Callable[[], object] | None = None

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` once when the client closes the connection, now if it has; replaces an earlier one."""
        if self.closed:
            callback()
        else:
            self._callback = callback

    def clear(self) -> None:
        """Drop the callback."""
        self._callback = None

    def notify(self) -> None:
        """Record that the client closed the connection, and call the callback."""
        self.closed = True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


@dataclass(slots=True)
class RequestInfo:
    """What the layers of the service tell each other of one request; ``None`` where it is not known (yet)."""

    #: ``time.monotonic()`` when the service began with the request; of a body that came slowly, when it was complete.
    arrived_at: float = field(default_factory=time.monotonic)
    disconnect: Disconnect = field(default_factory=Disconnect)
    #: The whole body, where the protocol had it before the handler asked.
    body: bytearray | None = None
    request_id: str | None = None
    #: The API key that the request presented, if it is valid.
    caller: Caller | None = None
    #: Why the request is not handled, found before its application got it.
    rejection: ServiceError | None = None
    #: The model that the request names, whether it exists or not; and the version that answers.
    model: str | None = None
    model_version: str | None = None
    #: Number of images.
    rows: int | None = None
    #: Seconds in the queue, of computing, and of encoding.
    stages_s: tuple[float, float, float] | None = None
    status: int = 0
    #: The code of the error that was sent.
    outcome: str | None = None
    #: Whether the error is in the metrics already.
    counted: bool = False


def info_of(scope: MutableMapping[str, Any]) -> RequestInfo:
    """The ``RequestInfo`` of the request with that ASGI scope; always the same one for one scope."""
    state = scope.setdefault("state", {})  # through request.state it costs as much as all the rest
    info: RequestInfo | None = state.get(KEY)
    if info is None:
        info = state[KEY] = RequestInfo()
    return info


def route_path(scope: MutableMapping[str, Any]) -> str:
    """The path of a request below the root path that a proxy serves the service under."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path
