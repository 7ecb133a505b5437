"""A store of values, bounded in number, bytes and time."""

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Bounds(NamedTuple):
    """Maximum number of values, maximum of their bytes, and seconds for which each is kept."""

    most: int
    most_bytes: int
    keep_s: float


class _Kept(NamedTuple, Generic[Value]):
    value: Value
    size: int
    until: float


class BoundedStore(Generic[Key, Value]):
    """Values by key, oldest first. ``on_leave`` is called with each key that is removed.

    ``now`` is in seconds of a clock that never goes back.
    """

    def __init__(self, bounds: Bounds, on_leave: Callable[[Key], None] = lambda _: None) -> None:
        self.size = 0
        self._bounds, self._on_leave = bounds, on_leave
        self._kept: dict[Key, _Kept[Value]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Value]:
        return (kept.value for kept in self._kept.values())

    def put(self, key: Key, value: Value, size: int, now: float) -> None:
        """Add ``value``, of ``size`` bytes, under a new key."""
        assert key not in self._kept
        self._kept[key] = _Kept(value, size, now + self._bounds.keep_s)
        self.size += size

    def get(self, key: Key) -> Value | None:
        """The value of ``key``, or None."""
        kept = self._kept.get(key)
        return None if kept is None else kept.value

    def remove(self, key: Key) -> None:
        """Remove ``key``, which must be there."""
        self.size -= self._kept.pop(key).size
        self._on_leave(key)

    def trim(self, now: float, others: int = 0, others_size: int = 0) -> None:
        """Remove expired values, then the oldest until the rest and ``others`` are within the bounds."""
        most, most_bytes = self._bounds.most - others, self._bounds.most_bytes - others_size
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            if now < oldest.until and len(self._kept) <= most and self.size <= most_bytes:
                break
            self.remove(key)
