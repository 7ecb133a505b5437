"""Idempotency-Key (IETF draft 07): a request sent twice is computed once."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from service.errors import KeyInUse, KeyReused
from service.store.bounded import BoundedStore, Bounds

Answer = TypeVar("Answer")

#: What a key takes beside its answer, roughly.
ENTRY_BYTES = 512


class Key(NamedTuple):
    """A client's own name for a request: two clients may use the same."""

    client: str
    name: str


class KeyedAnswers(Generic[Answer]):
    """Answers by the key of their request, within ``bounds``; on the event loop only.

    Only an answer is kept: what was refused, or left by its client, may be sent again.
    """

    def __init__(self, bounds: Bounds, clock: Callable[[], float]) -> None:
        self._bounds, self._clock = bounds, clock
        self._open: dict[Key, bytes] = {}
        self._kept: BoundedStore[Key, tuple[bytes, Answer]] = BoundedStore(bounds)

    def claim(self, key: Key, fingerprint: bytes) -> Answer | None:
        """The answer to the request of that key; without one the caller makes it, then calls ``keep`` or ``release``.

        Raises:
            KeyInUse: it is being made, or as many others are as there may be.
            KeyReused: the key is that of another request.
        """
        self._kept.trim(self._clock())
        kept = self._kept.get(key)
        known = kept[0] if kept else self._open.get(key, fingerprint)
        if known != fingerprint:
            raise KeyReused
        if kept:
            return kept[1]
        if key in self._open or len(self._open) >= self._bounds.most:
            raise KeyInUse
        self._open[key] = fingerprint
        return None

    def keep(self, key: Key, answer: Answer, size: int) -> None:
        """Keep the answer, of ``size`` bytes, to a request that was claimed."""
        now = self._clock()
        self._kept.put(key, (self._open.pop(key), answer), ENTRY_BYTES + size, now)
        self._kept.trim(now)

    def release(self, key: Key) -> None:
        """There is no answer to a request that was claimed."""
        del self._open[key]
