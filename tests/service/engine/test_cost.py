from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.cost import CostModel


@pytest.fixture
def cost() -> CostModel:
    return CostModel({1: 2.0, 2: 3.0, 4: 4.0, 8: 12.0})


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, 2.0), (2, 3.0), (3, 3.5), (4, 4.0), (6, 8.0), (8, 12.0), (16, 24.0)]
)
def test_call_ms_is_measured_linear_between_and_in_proportion_beyond(
    cost: CostModel, rows: int, expected: float
) -> None:
    assert cost.forward_ms(rows) == pytest.approx(expected)


def test_best_bucket_has_the_least_time_a_row(cost: CostModel) -> None:
    assert cost.best_bucket == 4  # 1.0 ms a row, against 2.0, 1.5 and 1.5


@pytest.mark.parametrize(("largest_ms", "bucket"), [(8.0, 8), (8.7, 8), (9.0, 4), (7.0, 8), (100.0, 4)])
def test_the_largest_of_nearly_the_best_is_taken(largest_ms: float, bucket: int) -> None:
    """A bucket of 4 costs 1 ms a row; one of 8 may cost a tenth more."""
    assert CostModel({1: 2.0, 2: 3.0, 4: 4.0, 8: largest_ms}).best_bucket == bucket


@pytest.mark.parametrize(("tick_ms", "bucket"), [(8.0, 8), (7.9, 4), (4.0, 4), (3.9, 4), (0.1, 4)])
def test_a_bucket_slower_than_the_tick_budget_is_not_used(tick_ms: float, bucket: int) -> None:
    """4 and 8 rows cost the same a row; fewer cost more, however short their calls are."""
    assert CostModel({1: 2.0, 2: 3.0, 4: 4.0, 8: 8.0}, tick_ms).best_bucket == bucket


def test_the_price_of_a_row_is_its_part_of_a_call_at_the_best_bucket(cost: CostModel) -> None:
    assert cost.row_ms() == pytest.approx(1.0)
    assert CostModel({1: 2.0, 4: 4.4}).row_ms() == pytest.approx(1.1)


@pytest.mark.parametrize(("budget_ms", "bucket"), [(0.5, 1), (2.0, 1), (3.0, 2), (3.9, 2), (4.0, 4), (100.0, 4)])
def test_budget_caps_the_bucket_and_never_goes_beyond_the_best(cost: CostModel, budget_ms: float, bucket: int) -> None:
    assert cost.bucket_within(budget_ms) == bucket


def test_a_budget_for_less_than_any_size_leaves_the_smallest() -> None:
    """Where every call is computed at 8 rows, one with a single row is not cheaper."""
    assert CostModel({8: 12.0}).bucket_within(1.0) == 8


@given(st.dictionaries(st.integers(1, 64), st.floats(0.01, 1000), min_size=1), st.integers(1, 200))
def test_forward_ms_is_positive_everywhere(forward_ms: dict[int, float], rows: int) -> None:
    assert CostModel(forward_ms).forward_ms(rows) > 0


MEASURED = st.dictionaries(st.integers(1, 64), st.floats(0.01, 1000), min_size=1)
#: Calls that were made: how many rows they had, and what they cost as a multiple of what was expected.
CALLS = st.lists(st.tuples(st.integers(1, 100), st.floats(0, 100)), max_size=30)


def learn(cost: CostModel, rows: int, factor: float) -> None:
    """A call costs ``factor`` times what warm-up would have predicted."""
    cost.learn(rows, factor * cost.forward_ms(rows) / cost.ratio)


@given(measured=MEASURED, factor=st.floats(0.05, 20), rows=st.integers(1, 100))
def test_it_learns_what_calls_really_cost(measured: dict[int, float], factor: float, rows: int) -> None:
    cost, warm = CostModel(measured), CostModel(measured)
    for _ in range(300):
        learn(cost, rows, factor)
    assert cost.ratio == pytest.approx(factor, rel=0.01)
    assert cost.row_ms() == pytest.approx(factor * warm.row_ms(), rel=0.01)
    for size in (1, 3, 64, 200):
        assert cost.forward_ms(size) == pytest.approx(factor * warm.forward_ms(size), rel=0.01)
    assert cost.best_bucket == warm.best_bucket


@pytest.mark.parametrize(("factor", "low", "high"), [(1e6, 1.1, 1.2), (0.0, 0.95, 0.99)])
def test_one_outlier_moves_it_only_a_little(cost: CostModel, factor: float, low: float, high: float) -> None:
    learn(cost, 4, factor)
    assert low < cost.ratio < high
    for _ in range(100):
        learn(cost, 4, 1.0)
    assert cost.ratio == pytest.approx(1.0, rel=0.01)


@given(measured=MEASURED, before=CALLS, rows=st.integers(1, 100), factor=st.floats(0, 100))
def test_a_slow_pass_raises_the_prices_and_a_fast_one_lowers_them(
    measured: dict[int, float], before: list[tuple[int, float]], rows: int, factor: float
) -> None:
    cost = CostModel(measured)
    for call in before:
        learn(cost, *call)
    ratio, expected = cost.ratio, cost.forward_ms(rows)
    spent_ms = factor * expected
    cost.learn(rows, spent_ms)
    found = cost.forward_ms(rows)
    assert found > 0
    assert min(expected, spent_ms) * (1 - 1e-9) <= found <= max(expected, spent_ms) * (1 + 1e-9)
    assert found > expected or factor < 1.001
    assert found < expected or factor > 0.999
    assert cost.row_ms() == pytest.approx(CostModel(measured).row_ms() * cost.ratio)
    assert 0.9 * ratio < cost.ratio < 1.2 * ratio


@given(
    steps=st.lists(st.floats(0.01, 100), min_size=4, max_size=4),
    calls=CALLS,
    budgets=st.tuples(st.floats(0.01, 1000), st.floats(0.01, 1000)),
)
def test_more_rows_cost_no_less_whatever_was_learned(
    steps: list[float], calls: list[tuple[int, float]], budgets: tuple[float, float]
) -> None:
    cost = CostModel({size: sum(steps[: place + 1]) for place, size in enumerate((1, 2, 4, 8))})
    for call in calls:
        learn(cost, *call)
    prices = [cost.forward_ms(rows) for rows in range(1, 20)]
    assert all(more >= less * (1 - 1e-9) for less, more in pairwise(prices))
    low, high = sorted(budgets)
    assert 1 <= cost.bucket_within(low) <= cost.bucket_within(high) <= cost.best_bucket
    assert cost.forward_ms(cost.bucket_within(high)) <= high or cost.bucket_within(high) == 1


def test_a_budget_is_compared_with_recent_costs(cost: CostModel) -> None:
    assert cost.bucket_within(4.0) == 4
    for _ in range(100):
        learn(cost, 4, 2.0)
    assert cost.bucket_within(4.0) == 1
    assert cost.bucket_within(6.1) == 2


def test_a_size_that_does_not_fit_is_halved() -> None:
    cost = CostModel({1: 2.0, 2: 2.2, 4: 2.6, 8: 3.4, 16: 5.0})
    buckets = [cost.best_bucket]
    for _ in range(6):
        cost.shrink(cost.best_bucket)
        buckets.append(cost.best_bucket)
    assert buckets == [16, 8, 4, 2, 1, 1, 1]
    assert cost.row_ms() == 2.0
    assert cost.forward_ms(16) == 32.0  # as sixteen calls of one row


@given(measured=MEASURED, refused=st.lists(st.integers(1, 200), min_size=1, max_size=6))
def test_whatever_does_not_fit_there_is_a_bucket_and_it_never_grows(
    measured: dict[int, float], refused: list[int]
) -> None:
    cost = CostModel(measured | {1: 1.0})
    for rows in refused:
        before = cost.best_bucket
        cost.shrink(rows)
        assert 1 <= cost.best_bucket <= max(1, rows // 2)
        assert cost.best_bucket <= before
        assert cost.bucket_within(1e9) == cost.best_bucket
        assert cost.row_ms() == pytest.approx(cost.forward_ms(cost.best_bucket) / cost.best_bucket)


def test_what_was_learned_stays_when_a_size_does_not_fit(cost: CostModel) -> None:
    learn(cost, 4, 2.0)
    ratio = cost.ratio
    cost.shrink(4)
    assert cost.ratio == ratio
    assert cost.row_ms() == pytest.approx(1.5 * ratio)
