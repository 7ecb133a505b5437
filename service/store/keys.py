"""Idempotency-Key (IETF draft 07): a request that is sent twice is computed once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from service.errors import KeyInUse, KeyReused
from service.store.bounded import BoundedStore, Bounds

#: Approximate size of an entry without its answer.
ENTRY_BYTES = 512


class Key(NamedTuple):
    """A client's name for a request; two clients may use the same name."""

    client: str
    name: str


class KeptAnswer(NamedTuple):
    """An answer that is sent again to requests with the same Idempotency-Key; names and values are encoded."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    @property
    def size(self) -> int:
        """Approximate number of bytes that its entry holds."""
        return ENTRY_BYTES + len(self.body)


class KeyedAnswers(Protocol):
    """Answers by the key of their request, bounded in number, bytes and time.

    Errors are not kept: a request that was rejected or cancelled may be sent again.
    """

    async def claim(self, key: Key, fingerprint: bytes) -> KeptAnswer | None:
        """The kept answer of ``key``, or None: then the caller must compute it and call ``keep`` or ``release``.

        Raises:
            KeyInUse: the answer is being computed, or the maximum number of other answers is, of all or of the client.
            KeyReused: the key was used for another request.
            StoreUnavailable: the store cannot be read or written.
        """

    async def keep(self, key: Key, answer: KeptAnswer) -> None:
        """Keep the answer to a claimed request."""

    async def release(self, key: Key) -> None:
        """Free the key of a claimed request that has no answer."""


class MemoryKeys:
    """``KeyedAnswers`` of one process, on its event loop."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float]) -> None:
        self._bounds, self._clock = bounds, clock
        self._open: dict[Key, bytes] = {}
        self._kept: BoundedStore[Key, tuple[bytes, KeptAnswer]] = BoundedStore(bounds)

    async def claim(self, key: Key, fingerprint: bytes) -> KeptAnswer | None:
        """As ``KeyedAnswers.claim``."""
        self._kept.trim(self._clock())
        kept = self._kept.get(key)
        known = kept[0] if kept else self._open.get(key, fingerprint)
        if known != fingerprint:
            raise KeyReused
        if kept:
            return kept[1]
        own = sum(each.client == key.client for each in self._open)
        if key in self._open or len(self._open) >= self._bounds.most or own >= self._bounds.most_of_client:
            raise KeyInUse
        self._open[key] = fingerprint
        return None

    async def keep(self, key: Key, answer: KeptAnswer) -> None:
        """As ``KeyedAnswers.keep``."""
        now = self._clock()
        self._kept.put(key, (self._open.pop(key), answer), answer.size, now, key.client)
        self._kept.trim(now)

    async def release(self, key: Key) -> None:
        """As ``KeyedAnswers.release``."""
        del self._open[key]
