"""The series of one metric, and their text: all of them from the numbers of all processes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import inf, isnan
from typing import Generic, TypeVar

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.series.block import Cell
from service.series.kinds import Counter, Gauge, Histogram, Merge, counted, summed, told
from service.series.store import Labels, Store

Series = TypeVar("Series")

#: What distinguishes the lines of one series: the end of the name, and one more label or none.
Line = tuple[str, Mapping[str, str]]


class Family(ABC, Collector, Generic[Series]):
    """The series of one metric. ``name`` is without the suffix of a counter."""

    kind: str

    def __init__(self, store: Store, name: str, text: str, labels: Labels, lines: Sequence[Line]) -> None:
        self.name, self._text, self._names, self._lines = name, text, labels, lines
        self._store = store
        self._bound: dict[Labels, Series] = {}
        self._heads: dict[Labels, list[str]] = {}

    def labels(self, *values: object) -> Series:
        """The series with these values of the labels, in their order; made if there is none."""
        labels = tuple(map(str, values))
        if len(labels) != len(self._names):
            raise ValueError(f"{self.name}: {len(self._names)} labels, not {len(labels)}")
        if labels not in self._bound:
            self._bound[labels] = self._bind(labels)
        return self._bound[labels]

    def collect(self) -> Iterator[Metric]:
        """The family as prometheus_client has it."""
        metric = Metric(self.name, self._text, self.kind)
        for values, cells in self._store.series(self.name).items():
            labels = dict(zip(self._names, values, strict=True))
            for (suffix, more), value in zip(self._lines, self._read(cells), strict=False):
                metric.add_sample(self.name + suffix, {**labels, **more}, value)
        yield metric

    def expose(self) -> Iterator[str]:
        """The family in Prometheus' text format, as prometheus_client writes ``collect``, in a quarter of the time."""
        name = f"{self.name}_total" if self.kind == "counter" else self.name
        yield f"# HELP {name} {self._text}\n# TYPE {name} {self.kind}\n"
        for values, cells in self._store.series(self.name).items():
            if values not in self._heads:
                self._heads[values] = [self._head(values, *line) for line in self._lines]
            for head, value in zip(self._heads[values], self._read(cells), strict=False):
                yield f"{head} {_number(value)}\n"

    def _head(self, values: Labels, suffix: str, more: Mapping[str, str]) -> str:
        """A line up to its value."""
        labels = {**dict(zip(self._names, values, strict=True)), **more}
        quoted = ",".join(f'{name}="{_escaped(labels[name])}"' for name in sorted(labels))
        return f"{self.name}{suffix}{{{quoted}}}" if quoted else f"{self.name}{suffix}"

    @abstractmethod
    def _bind(self, labels: Labels) -> Series:
        """A new series of this process."""

    @abstractmethod
    def _read(self, cells: Mapping[str, Cell]) -> Sequence[float]:
        """The values of the lines of the series with these arrays by slot; nothing if it is not shown."""


class Counters(Family[Counter]):
    """A counter for each value of the labels."""

    kind = "counter"

    def __init__(self, store: Store, name: str, text: str, labels: Labels) -> None:
        super().__init__(store, name, text, labels, [("_total", {})])

    def _bind(self, labels: Labels) -> Counter:
        return Counter(self._store, self.name, labels)

    def _read(self, cells: Mapping[str, Cell]) -> Sequence[float]:
        return (counted(cells),)


class Gauges(Family[Gauge]):
    """A gauge for each value of the labels, merged over processes by ``merge``."""

    kind = "gauge"

    def __init__(self, store: Store, name: str, text: str, labels: Labels, merge: Merge) -> None:
        super().__init__(store, name, text, labels, [("", {})])
        self._merge = merge
        self.clear(store.slot)  # what the slot's previous process has left

    def remove(self, **wanted: str) -> None:
        """Remove the series with these values of labels, in all processes; ``labels`` makes them again."""
        for values, cells in self._store.series(self.name).items():
            if wanted.items() <= dict(zip(self._names, values, strict=True)).items():
                self._bound.pop(values, None)
                self._heads.pop(values, None)
                for cell in cells.values():
                    cell[1] = 0.0

    def clear(self, slot: str) -> None:
        """Remove what the process in ``slot`` has set."""
        for cells in self._store.series(self.name).values():
            if slot in cells:
                cells[slot][1] = 0.0

    def _bind(self, labels: Labels) -> Gauge:
        return Gauge(self._store, self.name, labels, self._merge)

    def _read(self, cells: Mapping[str, Cell]) -> Sequence[float]:
        value = told(cells, self._merge)
        return () if value is None else (value,)


class Histograms(Family[Histogram]):
    """A histogram for each value of the labels; ``bounds`` are the upper bounds of the buckets, which rise."""

    kind = "histogram"

    def __init__(self, store: Store, name: str, text: str, labels: Labels, bounds: Sequence[float]) -> None:
        self._bounds = tuple(map(float, bounds))
        buckets: list[Line] = [("_bucket", {"le": _number(bound)}) for bound in (*self._bounds, inf)]
        super().__init__(store, name, text, labels, [*buckets, ("_count", {}), ("_sum", {})])

    def _bind(self, labels: Labels) -> Histogram:
        return Histogram(self._store, self.name, labels, self._bounds)

    def _read(self, cells: Mapping[str, Cell]) -> Sequence[float]:
        total, *counts = summed(cells) or [0.0] * (len(self._bounds) + 2)
        below = list(accumulate(counts))
        return (*below, below[-1], total)


def _number(value: float) -> str:
    """A number in Prometheus' text format."""
    if isnan(value):
        return "NaN"
    return repr(float(value)) if abs(value) != inf else "+Inf" if value > 0 else "-Inf"


def _escaped(text: str) -> str:
    """A label's value within quotation marks."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
