"""Idempotency-Key (IETF draft 07): a request that is sent twice is computed once."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from service.errors import KeyInUse, KeyReused
from service.store.bounded import BoundedStore, Bounds

Answer = TypeVar("Answer")

#: Approximate size of an entry without its answer.
ENTRY_BYTES = 512


class Key(NamedTuple):
    """A client's name for a request; two clients may use the same name."""

    client: str
    name: str


class KeyedAnswers(Generic[Answer]):
    """Answers by the key of their request, within ``bounds``, for the event loop only.

    Errors are not kept: a request that was rejected or cancelled may be sent again.
    """

    def __init__(self, bounds: Bounds, clock: Callable[[], float]) -> None:
        self._bounds, self._clock = bounds, clock
        self._open: dict[Key, bytes] = {}
        self._kept: BoundedStore[Key, tuple[bytes, Answer]] = BoundedStore(bounds)

    def claim(self, key: Key, fingerprint: bytes) -> Answer | None:
        """The kept answer of ``key``, or None: then the caller must compute it and call ``keep`` or ``release``.

        Raises:
            KeyInUse: the answer is being computed, or the maximum number of other answers is.
            KeyReused: the key was used for another request.
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
        """Keep the answer, of ``size`` bytes, to a claimed request."""
        now = self._clock()
        self._kept.put(key, (self._open.pop(key), answer), ENTRY_BYTES + size, now)
        self._kept.trim(now)

    def release(self, key: Key) -> None:
        """Free the key of a claimed request that has no answer."""
        del self._open[key]
