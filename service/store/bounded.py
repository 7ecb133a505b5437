"""A store of values, bounded in number, bytes and time, that its owners share.

Values that must leave before their time are the oldest of the owner that holds most. So an owner that holds no more
than an equal part of the bounds never loses one, whatever others add (max-min fairness).
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Held(NamedTuple):
    """A number of values, and of their bytes."""

    number: int = 0
    size: int = 0


NOTHING = Held()


class Bounds(NamedTuple):
    """Maximum number of values, maximum of their bytes, and seconds for which each is kept.

    ``client_share`` is the fraction of the number that one client may have open.
    """

    most: int
    most_bytes: int
    keep_s: float
    client_share: float = 1.0

    @property
    def most_of_client(self) -> int:
        """Maximum number that one client may have open."""
        return max(1, int(self.most * self.client_share))

    def fit(self, held: Held) -> bool:
        """Whether ``held`` is within the bounds."""
        return held.number <= self.most and held.size <= self.most_bytes

    def part(self, held: Held) -> float:
        """The larger fraction of the two bounds that ``held`` takes."""
        return max(held.number / self.most, held.size / self.most_bytes)


class _Kept(NamedTuple, Generic[Value]):
    value: Value
    size: int
    until: float
    owner: str


class BoundedStore(Generic[Key, Value]):
    """Values by key, oldest first. ``on_leave`` is called with each key that is removed.

    ``now`` is in seconds of a clock that never goes back. ``others`` are values kept elsewhere, by owner: they count in
    the bounds and are never removed.
    """

    def __init__(self, bounds: Bounds, on_leave: Callable[[Key], None] = lambda _: None) -> None:
        self.size = 0
        self._bounds, self._on_leave = bounds, on_leave
        self._kept: dict[Key, _Kept[Value]] = {}
        self._sizes: dict[str, dict[Key, int]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Value]:
        return (kept.value for kept in self._kept.values())

    def put(self, key: Key, value: Value, size: int, now: float, owner: str = "") -> None:
        """Add ``value``, of ``size`` bytes, under a new key."""
        assert key not in self._kept
        self._kept[key] = _Kept(value, size, now + self._bounds.keep_s, owner)
        self._sizes.setdefault(owner, {})[key] = size
        self.size += size

    def get(self, key: Key) -> Value | None:
        """The value of ``key``, or None."""
        kept = self._kept.get(key)
        return None if kept is None else kept.value

    def remove(self, key: Key) -> None:
        """Remove ``key``, which must be there."""
        kept = self._kept.pop(key)
        self.size -= kept.size
        del self._sizes[kept.owner][key]
        if not self._sizes[kept.owner]:
            del self._sizes[kept.owner]
        self._on_leave(key)

    def trim(self, now: float, total: Held = NOTHING, others: Callable[[], Mapping[str, Held]] = dict) -> None:
        """Remove expired values, then some until the rest is within the bounds with ``others``, ``total`` in all."""
        while self._kept and next(iter(self._kept.values())).until <= now:
            self.remove(next(iter(self._kept)))
        while self._kept and not self._fits(total):
            self.remove(next(iter(self._sizes[self._largest(others())[0]])))

    def takes_from_less(self, owner: str, others: Mapping[str, Held]) -> bool:
        """Whether ``others``, of which ``owner`` is about to add one, need the room of an owner that holds less."""
        total = Held(sum(held.number for held in others.values()), sum(held.size for held in others.values()))
        if self._fits(total) or not self._kept:
            return False
        own = others[owner]
        sizes = self._sizes.get(owner, {})
        held = Held(own.number + len(sizes), own.size + sum(sizes.values()))
        return self._bounds.part(held) > self._largest(others)[1]

    def _fits(self, total: Held) -> bool:
        return self._bounds.fit(Held(len(self._kept) + total.number, self.size + total.size))

    def _largest(self, others: Mapping[str, Held]) -> tuple[str, float]:
        """The owner with values that holds most, and the part of the bounds that it holds."""
        part = self._bounds.part
        parts = [
            (part(Held(own.number + len(sizes), own.size + sum(sizes.values()))), owner)
            for owner, sizes in self._sizes.items()
            for own in (others.get(owner, NOTHING),)
        ]
        largest, owner = max(parts)
        return owner, largest
