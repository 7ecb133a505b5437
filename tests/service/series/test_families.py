import math
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as LibraryHistogram
from prometheus_client.parser import text_string_to_metric_families

from service.series.families import Counters, Gauges, Histograms
from service.series.kinds import Merge, largest, latest, smallest, total
from service.series.store import Store

Two = tuple[Store, Store]


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Store(tmp_path, "api-0"), Store(tmp_path, "engine-0")


def sync(stores: Two) -> None:
    for store in stores:
        store.sync()


def gauges(store: Store, merge: Merge = total) -> Gauges:
    return Gauges(store, "rows", "Rows", ("model",), merge)


def values(family: Counters | Gauges | Histograms) -> dict[tuple[str, ...], float]:
    """The samples of a family: the end of the name and the labels, and the value."""
    (metric,) = family.collect()
    return {(each.name.removeprefix(family.name), *each.labels.values()): each.value for each in metric.samples}


def test_a_counter_is_the_sum_over_processes(two: Two) -> None:
    families = [Counters(store, "images", "Pictures", ("model",)) for store in two]
    families[0].labels("vae").inc()
    families[1].labels("vae").inc(2.5)
    families[1].labels("gan")
    sync(two)
    for family in families:
        assert family.labels("vae").value == 3.5
        assert values(family) == {("_total", "gan"): 0, ("_total", "vae"): 3.5}


def test_a_counter_does_not_fall() -> None:
    counter = Counters(Store(), "images", "Pictures", ()).labels()
    with pytest.raises(ValueError, match="cannot fall by 1"):
        counter.inc(-1)
    assert counter.value == 0


def test_labels_are_as_many_as_their_names() -> None:
    with pytest.raises(ValueError, match="rows: 1 labels, not 2"):
        gauges(Store()).labels("vae", "gan")


@pytest.mark.parametrize(("merge", "expected"), [(total, 7), (largest, 5), (smallest, 2), (latest, 2)])
def test_a_gauge_is_merged(two: Two, merge: Merge, expected: float) -> None:
    families = [gauges(store, merge) for store in two]
    for family, value in zip(families, (5, 2), strict=True):
        family.labels("vae").set(value)
    sync(two)
    for family in families:
        assert family.labels("vae").value == expected
        assert values(family) == {("", "vae"): expected}


@pytest.mark.parametrize("merge", [total, largest, smallest, latest])
def test_a_process_that_has_set_no_gauge_has_no_say(two: Two, merge: Merge) -> None:
    families = [gauges(store, merge) for store in two]
    families[0].labels("vae").set(-3)
    families[1].labels("vae")
    sync(two)
    assert [family.labels("vae").value for family in families] == [-3, -3]


def test_a_gauge_is_zero_until_it_is_set() -> None:
    family = gauges(Store(), latest)
    assert values(family) == {}
    assert family.labels("vae").value == 0
    assert values(family) == {("", "vae"): 0}


def test_a_removed_gauge_is_shown_by_no_process(two: Two) -> None:
    families = [gauges(store) for store in two]
    for family in families:
        family.labels("vae").set(1)
        family.labels("gan").set(2)
    sync(two)
    families[0].remove(model="vae")
    assert [values(family) for family in families] == [{("", "gan"): 4}] * 2
    families[0].labels("vae")
    assert [values(family) for family in families] == [{("", "gan"): 4, ("", "vae"): 0}] * 2


def test_what_a_process_has_set_ends_with_it(two: Two, tmp_path: Path) -> None:
    families = [gauges(store) for store in two]
    for family in families:
        family.labels("vae").set(1)
    sync(two)
    families[0].clear("engine-0")
    assert values(families[0]) == {("", "vae"): 1}
    families[1].labels("vae").set(3)
    gauges(Store(tmp_path, "engine-0"))  # the process that replaces it
    assert values(families[0]) == {("", "vae"): 1}


@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(0, 40)), max_size=30),
    st.lists(st.floats(0.1, 30), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_histograms_add_up_to_what_one_would_have_counted(
    observed: list[tuple[int, float]], bounds: list[float]
) -> None:
    registry = CollectorRegistry()
    library = LibraryHistogram("seconds", "Time", buckets=bounds, registry=registry)
    store = Store()
    parts = [Histograms(store, "seconds", "Time", (), bounds).labels() for _ in range(2)]
    for place, amount in observed:
        parts[place].observe(amount)
        library.observe(amount)
    (expected,), (metric,) = (
        list(each.collect()) for each in (library, Histograms(store, "seconds", "Time", (), bounds))
    )
    samples = [each for each in expected.samples if each.name != "seconds_created"]
    assert [(each.name, each.labels) for each in metric.samples] == [(each.name, each.labels) for each in samples]
    assert [each.value for each in metric.samples] == pytest.approx([each.value for each in samples])
    buckets = [each.value for each in samples if each.name == "seconds_bucket"]
    assert list(accumulate(parts[0].counts)) == buckets
    assert parts[1].sum == pytest.approx(sum(amount for _, amount in observed))


def test_histograms_of_two_processes_add_up(two: Two) -> None:
    families = [Histograms(store, "seconds", "Time", ("model",), (1, 2)) for store in two]
    for family, amounts in zip(families, ((0.5, 1.0, 9.0), (1.5,)), strict=True):
        for amount in amounts:
            family.labels("vae").observe(amount)
    sync(two)
    for family in families:
        assert (family.labels("vae").counts, family.labels("vae").sum) == ([2, 1, 1], 12.0)
        assert values(family) == {
            ("_bucket", "vae", "1.0"): 2,
            ("_bucket", "vae", "2.0"): 3,
            ("_bucket", "vae", "+Inf"): 4,
            ("_count", "vae"): 4,
            ("_sum", "vae"): 12,
        }


labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=8)


@given(labels, st.floats() | st.sampled_from([math.inf, -math.inf, math.nan, 1e6, 1e21, 1e-7]))
def test_the_text_is_that_of_the_library(label: str, value: float) -> None:
    """The library writes large numbers in another form, so both texts are parsed."""
    store, registry = Store(), CollectorRegistry()
    counters = Counters(store, "images", "Pictures", ("model", "a"))
    set_ = gauges(store, latest)
    seconds = Histograms(store, "seconds", "Time", ("model",), (0.001, 5))
    counters.labels(label, "x").inc(3)
    set_.labels(label).set(value)
    seconds.labels(label).observe(0.01)
    for family in (counters, set_, seconds):
        registry.register(family)
    text = "".join(line for family in (counters, set_, seconds) for line in family.expose())
    parsed, expected = (
        [(family.name, family.type, family.documentation, list(map(str, family.samples))) for family in families]
        for families in map(text_string_to_metric_families, (text, generate_latest(registry).decode()))
    )
    assert parsed == expected
