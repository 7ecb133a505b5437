"""Recent history of the metrics: snapshots of their values in a ring of fixed size, for `GET /stats`."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import BaseModel, Field

from service.metrics import SECONDS_BUCKETS, ModelMetrics

#: Seconds between two snapshots, and the number of snapshots kept.
STEP_S = 2.0
KEPT = 151

#: The longest window that a request may name, in seconds.
LONGEST_S = int(STEP_S * (KEPT - 1))

STAGES = ("queue", "compute", "encode", "request")


class Latency(BaseModel):
    """How long a stage took, over some requests."""

    count: int
    p50_ms: float | None = Field(description="Milliseconds; null if the count is 0.")
    p95_ms: float | None = Field(description="Milliseconds; null if the count is 0.")


class Counts(NamedTuple):
    """Values of one model's metrics. ``seconds``: for each stage, counts by ``SECONDS_BUCKETS`` and one beyond them."""

    seconds: Mapping[str, Sequence[int]]
    pictures: float
    errors: Mapping[str, float]
    queued_rows: float
    live_rows: float


class Snapshot(NamedTuple):
    """The counts of every model at ``at``, in seconds of the monotonic clock."""

    at: float
    models: Mapping[str, Counts]


class History:
    """Snapshots of ``models``: one for each call of ``take``, every ``STEP_S`` seconds. For the event loop only.

    ``refresh`` brings their metrics up to date. A model whose metrics have been counted before, by this or another
    process, must be among the models from the start: all that a later one has counts as new.
    """

    def __init__(
        self,
        models: Callable[[], Iterable[tuple[str, ModelMetrics]]],
        refresh: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._models, self._refresh, self._clock = models, refresh, clock
        self._snapshots: deque[Snapshot] = deque([self.snapshot()], maxlen=KEPT)

    def take(self) -> None:
        """Add a snapshot; the oldest one is dropped."""
        self._snapshots.append(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The current values."""
        self._refresh()
        return Snapshot(self._clock(), {name: counts_of(metrics) for name, metrics in self._models()})

    def since(self, window_s: float) -> list[Snapshot]:
        """The snapshots of the last ``window_s`` seconds, the one before them, and a new one; oldest first."""
        current = self.snapshot()
        kept = [each for each in self._snapshots if each.at >= current.at - window_s]
        before = [each for each in self._snapshots if each.at < current.at - window_s][-1:]
        return [*before, *kept, current]


def counts_of(metrics: ModelMetrics) -> Counts:
    """The current values of ``metrics``; gauges as of the last refresh."""
    stages = (metrics.queue_seconds, metrics.compute_seconds, metrics.encode_seconds, metrics.request_seconds)
    return Counts(
        seconds={name: stage.counts for name, stage in zip(STAGES, stages, strict=True)},
        pictures=metrics.images.value,
        errors={code: counter.value for code, counter in metrics.errors.items()},
        queued_rows=metrics.queued_rows.value,
        live_rows=metrics.live_rows.value,
    )


def latency(counts: Sequence[int]) -> Latency:
    """Number and quantiles of ``counts`` by ``SECONDS_BUCKETS``."""
    return Latency(count=sum(counts), p50_ms=quantile_ms(counts, 0.5), p95_ms=quantile_ms(counts, 0.95))


def quantile_ms(counts: Sequence[int], q: float) -> float | None:
    """The ``q`` quantile of ``counts`` by ``SECONDS_BUCKETS``, in milliseconds; None without counts.

    Computed like Prometheus' histogram_quantile: values are spread evenly within a bucket, and values beyond the last
    bound count as that bound.
    """
    wanted, below = q * sum(counts), 0
    for upper, lower, count in zip(SECONDS_BUCKETS, (0.0, *SECONDS_BUCKETS), counts, strict=False):
        if count and below + count >= wanted:
            return 1000 * (lower + (upper - lower) * (wanted - below) / count)
        below += count
    return 1000 * SECONDS_BUCKETS[-1] if sum(counts) else None


def increase(later: Sequence[int], earlier: Sequence[int] | None) -> list[int]:
    """Counts added between two snapshots; all counts if there is no earlier snapshot."""
    return [*later] if earlier is None else [now - then for now, then in zip(later, earlier, strict=True)]


def steps(snapshots: Sequence[Snapshot], name: str) -> list[tuple[Counts | None, Counts]]:
    """Counts of model ``name`` before (None if it did not exist yet) and after each interval at whose end it exists."""
    return [(one.models.get(name), other.models[name]) for one, other in pairwise(snapshots) if name in other.models]
