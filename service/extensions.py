"""What the service's own HTTP protocol adds to ASGI; behind another server's the service does without.

A request learns of its client's leaving: ASGI has it wait for that in ``receive``, in a task that is dearer than the
answer of a quick model. And an answer that is whole is sent in one message.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

#: The extension's name in an ASGI scope, and the type of its message: status, headers and body at once.
WHOLE = "genserve.response.whole"

#: A connection's disconnect in the state of an ASGI scope.
STATE = "disconnect"


class Disconnect:
    """Whether the client of a connection has gone, and what its running request does then."""

    def __init__(self) -> None:
        self.gone = False
        self._then: Callable[[], object] | None = None

    def then(self, then: Callable[[], object]) -> None:
        """Have ``then`` called once when the client goes, now if it has; instead of what was to be called before."""
        if self.gone:
            then()
        else:
            self._then = then

    def forget(self) -> None:
        """Nothing is to be done any more."""
        self._then = None

    def happen(self) -> None:
        """The client has gone."""
        self.gone = True
        then, self._then = self._then, None
        if then is not None:
            then()


def disconnect_of(scope: MutableMapping[str, Any]) -> Disconnect:
    """That of the connection of this request; one that is never told behind a protocol that is not the service's."""
    state = scope.setdefault("state", {})
    disconnect: Disconnect | None = state.get(STATE)
    if disconnect is None:
        disconnect = state[STATE] = Disconnect()
    return disconnect


def route_path(scope: MutableMapping[str, Any]) -> str:
    """The path of a request below the root path that a proxy serves the service under."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path
