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
    assert cost.call_ms(rows) == pytest.approx(expected)


def test_best_bucket_has_the_least_time_a_row(cost: CostModel) -> None:
    assert cost.best_bucket == 4  # 1.0 ms a row, against 2.0, 1.5 and 1.5


def test_price_counts_rows_of_calls_at_the_best_bucket(cost: CostModel) -> None:
    assert cost.price_ms(20) == pytest.approx(20.0)


@pytest.mark.parametrize(("budget_ms", "bucket"), [(0.5, 1), (2.0, 1), (3.0, 2), (3.9, 2), (4.0, 4), (100.0, 4)])
def test_budget_caps_the_bucket_and_never_goes_beyond_the_best(cost: CostModel, budget_ms: float, bucket: int) -> None:
    assert cost.bucket_within(budget_ms) == bucket


@given(st.dictionaries(st.integers(1, 64), st.floats(0.01, 1000), min_size=1), st.integers(1, 200))
def test_call_ms_is_positive_everywhere(call_ms: dict[int, float], rows: int) -> None:
    assert CostModel(call_ms).call_ms(rows) > 0
