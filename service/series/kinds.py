"""Counters, gauges and histograms: a process changes its own numbers and reads those of all processes together."""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from service.series.block import Cell
from service.series.store import Labels, Store


class Counter:
    """A number that only rises."""

    __slots__ = ("_cell", "_cells", "_lock")

    def __init__(self, store: Store, metric: str, labels: Labels) -> None:
        self._cell, self._lock = store.own(metric, labels, 1), store.lock
        self._cells = store.everywhere(metric, labels)

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount``. Raises ValueError if it is negative."""
        if amount < 0:
            raise ValueError(f"a counter cannot fall by {-amount}")
        with self._lock:
            self._cell[0] += amount

    @property
    def value(self) -> float:
        """The sum over all processes."""
        return counted(self._cells)


def counted(cells: Mapping[str, Cell]) -> float:
    """The value of a counter with these arrays by slot."""
    return sum(cell[0] for cell in list(cells.values()))


#: The time of a gauge in a process that has made it and not set it; later ones are seconds since the machine's start,
#: which all processes share. The time of a gauge that is not shown is 0.
_MADE = 1e-9
#: Merges the value of a gauge in each process that has set it with the time at which it did.
Merge = Callable[[Sequence[tuple[float, float]]], float]


def total(parts: Sequence[tuple[float, float]]) -> float:
    """The sum: each process has a part."""
    return sum(value for value, _ in parts)


def largest(parts: Sequence[tuple[float, float]]) -> float:
    """The largest value."""
    return max(value for value, _ in parts)


def smallest(parts: Sequence[tuple[float, float]]) -> float:
    """The smallest value."""
    return min(value for value, _ in parts)


def latest(parts: Sequence[tuple[float, float]]) -> float:
    """The value that was set last: all processes tell of the same thing."""
    return max(parts, key=lambda part: part[1])[0]


class Gauge:
    """A number that rises and falls. ``merge`` decides between processes; one that has set nothing has no say."""

    __slots__ = ("_cell", "_cells", "_merge")

    def __init__(self, store: Store, metric: str, labels: Labels, merge: Merge) -> None:
        self._cell, self._merge = store.own(metric, labels, 2), merge
        self._cells = store.everywhere(metric, labels)
        if not self._cell[1]:
            self._cell[0], self._cell[1] = 0.0, _MADE

    def set(self, value: float) -> None:
        """Set this process's value."""
        self._cell[0], self._cell[1] = value, time.monotonic()

    @property
    def value(self) -> float:
        """The value over all processes; 0 if it was not set."""
        return told(self._cells, self._merge) or 0.0


def told(cells: Mapping[str, Cell], merge: Merge) -> float | None:
    """The value of a gauge with these arrays by slot; None if no process shows it."""
    shown = [(cell[0], cell[1]) for cell in list(cells.values()) if cell[1]]
    parts = [part for part in shown if part[1] > _MADE]
    return merge(parts) if parts else 0.0 if shown else None


class Histogram:
    """Counts of observations by size, and their sum."""

    __slots__ = ("_bounds", "_cell", "_cells", "_lock")

    def __init__(self, store: Store, metric: str, labels: Labels, bounds: Sequence[float]) -> None:
        self._cell, self._lock = store.own(metric, labels, len(bounds) + 2), store.lock
        self._cells, self._bounds = store.everywhere(metric, labels), bounds

    def observe(self, amount: float) -> None:
        """Count ``amount`` in the first bucket whose bound is not below it."""
        bucket = 1 + bisect_left(self._bounds, amount)
        with self._lock:
            self._cell[0] += amount
            self._cell[bucket] += 1.0

    @property
    def sum(self) -> float:
        """The sum of all observations."""
        return summed(self._cells)[0]

    @property
    def counts(self) -> list[int]:
        """Observations by bucket, and last those beyond all bounds."""
        return [int(count) for count in summed(self._cells)[1:]]


def summed(cells: Mapping[str, Cell]) -> list[float]:
    """The arrays of a histogram by slot, added up."""
    return [sum(column) for column in zip(*(cell.tolist() for cell in list(cells.values())), strict=True)]
