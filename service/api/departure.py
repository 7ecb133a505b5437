"""A client's leaving, told to whoever works for it.

ASGI has a request wait in ``receive`` to learn of it: a task beside every answer, dearer than a quick model's answer.
The service's own protocol tells it instead.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

#: Its name in an ASGI scope's state.
STATE = "departure"


class Departure:
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


def departure_of(scope: MutableMapping[str, Any]) -> Departure:
    """That of the connection of this request; one that is never told behind a protocol that is not the service's."""
    state = scope.setdefault("state", {})
    departure: Departure | None = state.get(STATE)
    if departure is None:
        departure = state[STATE] = Departure()
    return departure
