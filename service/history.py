"""The numbers of the last minutes: every so often what the metrics have counted, in a ring that does not grow."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram
from pydantic import BaseModel, Field

from service.metrics import SECONDS_BUCKETS, ModelMetrics

#: Seconds between two looks at the counts, and how many looks are kept.
STEP_S = 2.0
KEPT = 151

#: The longest window that can be asked for, in seconds.
LONGEST_S = int(STEP_S * (KEPT - 1))

STAGES = ("queue", "compute", "encode", "request")


class Latency(BaseModel):
    """How long a stage took."""

    count: int
    p50_ms: float | None = Field(description="Milliseconds; null where there was none.")
    p95_ms: float | None = Field(description="Milliseconds; null where there was none.")


class Counts(NamedTuple):
    """What the metrics of one model say: times by ``SECONDS_BUCKETS`` for each stage, pictures, errors, rows."""

    seconds: Mapping[str, Sequence[int]]
    pictures: float
    errors: Mapping[str, float]
    queued_rows: float
    live_rows: float


class Snapshot(NamedTuple):
    """The counts of every model at a time of the monotonic clock."""

    at: float
    models: Mapping[str, Counts]


class History:
    """Looks at ``models``, one whenever ``take`` is called, every ``STEP_S`` seconds; on the event loop only."""

    def __init__(self, models: Callable[[], Iterable[tuple[str, ModelMetrics]]], clock: Callable[[], float]) -> None:
        self._models, self._clock = models, clock
        self._snapshots: deque[Snapshot] = deque([self.snapshot()], maxlen=KEPT)

    def take(self) -> None:
        """Snapshot, and keep what is seen; the oldest look goes."""
        self._snapshots.append(self.snapshot())

    def snapshot(self) -> Snapshot:
        """What the metrics say."""
        return Snapshot(self._clock(), {name: counts_of(metrics) for name, metrics in self._models()})

    def since(self, window_s: float) -> list[Snapshot]:
        """The looks of the last ``window_s`` seconds, the one before them, and one of this moment; oldest first."""
        current = self.snapshot()
        kept = [look for look in self._snapshots if look.at >= current.at - window_s]
        before = [look for look in self._snapshots if look.at < current.at - window_s][-1:]
        return [*before, *kept, current]


def counts_of(metrics: ModelMetrics) -> Counts:
    """What ``metrics`` have counted."""
    stages = (metrics.queue_seconds, metrics.compute_seconds, metrics.encode_seconds, metrics.request_seconds)
    return Counts(
        seconds={name: [*stage.counts] for name, stage in zip(STAGES, stages, strict=True)},
        pictures=value_of(metrics.images),
        errors={code: value_of(counter) for code, counter in metrics.errors.items()},
        queued_rows=value_of(metrics.queued_rows),
        live_rows=value_of(metrics.live_rows),
    )


def latency(counts: Sequence[int]) -> Latency:
    """What ``counts`` by ``SECONDS_BUCKETS`` come to."""
    return Latency(count=sum(counts), p50_ms=quantile_ms(counts, 0.5), p95_ms=quantile_ms(counts, 0.95))


def quantile_ms(counts: Sequence[int], q: float) -> float | None:
    """The ``q`` quantile of ``counts`` by ``SECONDS_BUCKETS``, in milliseconds; None of nothing.

    As Prometheus' histogram_quantile has it: within a bucket all are taken to be spread evenly, and what is beyond the
    last bound to be there.
    """
    wanted, below = q * sum(counts), 0
    for upper, lower, count in zip(SECONDS_BUCKETS, (0.0, *SECONDS_BUCKETS), counts, strict=False):
        if count and below + count >= wanted:
            return 1000 * (lower + (upper - lower) * (wanted - below) / count)
        below += count
    return 1000 * SECONDS_BUCKETS[-1] if sum(counts) else None


def increase(later: Sequence[int], earlier: Sequence[int] | None) -> list[int]:
    """How many were counted between two looks; all, where there was no earlier one."""
    return [*later] if earlier is None else [now - then for now, then in zip(later, earlier, strict=True)]


def steps(looks: Sequence[Snapshot], name: str) -> list[tuple[Counts | None, Counts]]:
    """The counts of model ``name`` before and after each step between two looks at which it was there."""
    return [(one.models.get(name), other.models[name]) for one, other in pairwise(looks) if name in other.models]


def value_of(metric: Counter | Gauge | Histogram, suffix: str = "") -> float:
    """Of a series without further labels; of a histogram, ``suffix`` says which one.

    The registry has it too, and collects every series of every model to find one.
    """
    samples = (sample for family in metric.collect() for sample in family.samples)
    return next(sample.value for sample in samples if sample.name.endswith(suffix))
