import math

import pytest

from service.history import KEPT, STEP_S, History, increase, latency, quantile_ms, steps
from service.metrics import SECONDS_BUCKETS, Metrics, ModelMetrics


def unchanged() -> None:
    """A refresh that finds nothing new."""


def counts(**at: int) -> list[int]:
    """So many in each of the buckets that are named by their place, as b3=2."""
    found = [0] * (len(SECONDS_BUCKETS) + 1)
    for name, count in at.items():
        found[int(name[1:])] = count
    return found


def test_counts_are_those_of_the_buckets() -> None:
    metrics = Metrics()
    queue, other = (metrics.for_model(name, []).queue_seconds for name in ("vae", "gan"))
    other.observe(1.0)
    assert queue.counts == counts()
    for seconds in (0.0, SECONDS_BUCKETS[5], math.nextafter(SECONDS_BUCKETS[5], 1.0), 31.0):
        queue.observe(seconds)
    assert queue.counts == counts(b0=1, b5=1, b6=1, **{f"b{len(SECONDS_BUCKETS)}": 1})


def test_a_quantile_is_within_its_bucket() -> None:
    low, high = 1000 * SECONDS_BUCKETS[4], 1000 * SECONDS_BUCKETS[5]
    assert quantile_ms(counts(b5=4), 0.5) == pytest.approx((low + high) / 2)
    assert quantile_ms(counts(b5=4), 1.0) == pytest.approx(high)
    assert quantile_ms(counts(b0=1), 0.5) == pytest.approx(1000 * SECONDS_BUCKETS[0] / 2)
    assert quantile_ms(counts(b5=95, b9=5), 0.95) == pytest.approx(high)
    assert quantile_ms(counts(b5=94, b9=6), 0.95) == pytest.approx(
        1000 * (SECONDS_BUCKETS[8] + (SECONDS_BUCKETS[9] - SECONDS_BUCKETS[8]) / 6)
    )


def test_what_is_beyond_all_bounds_is_at_the_last() -> None:
    assert quantile_ms(counts(**{f"b{len(SECONDS_BUCKETS)}": 3}), 0.5) == 1000 * SECONDS_BUCKETS[-1]
    assert quantile_ms(counts(), 0.5) is None
    assert latency(counts()).model_dump() == {"count": 0, "p50_ms": None, "p95_ms": None}


def test_the_ring_does_not_grow() -> None:
    now = 0.0
    metrics = Metrics().for_model("vae", ["internal"])
    history = History(lambda: [("vae", metrics)], unchanged, lambda: now)
    for _ in range(2 * KEPT):
        now += STEP_S
        history.take()
    assert len(history.since(math.inf)) == KEPT + 1
    assert len(history.since(10 * STEP_S)) == 13  # eleven in it, the one before, and this moment


def test_a_window_sees_what_happened_in_it() -> None:
    now = 0.0
    metrics = Metrics().for_model("vae", ["internal"])
    history = History(lambda: [("vae", metrics)], unchanged, lambda: now)
    for place in range(5):
        metrics.images.inc(place)
        metrics.queue_seconds.observe(0.001)
        now += STEP_S
        history.take()
    taken = steps(history.since(2 * STEP_S), "vae")
    pictures = [after.pictures - before.pictures for before, after in taken if before is not None]
    assert pictures == [2, 3, 4, 0]
    first, last = taken[0][0], taken[-1][1]
    assert first is not None
    assert sum(increase(last.seconds["queue"], first.seconds["queue"])) == 3


def test_a_model_that_came_later_has_all_it_has_in_the_window() -> None:
    registry = Metrics()
    models: list[tuple[str, ModelMetrics]] = []
    history = History(lambda: models, registry.refresh, lambda: 0.0)
    metrics = registry.for_model("new", ["internal"])
    metrics.images.inc(3)
    models.append(("new", metrics))
    ((before, after),) = steps(history.since(60), "new")
    assert before is None
    assert after.pictures == 3
