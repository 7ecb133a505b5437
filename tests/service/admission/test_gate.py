from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.gate import Gate
from service.errors import Overloaded

PRICES = st.floats(0.001, 5000, allow_nan=False)


def admitted(gate: Gate, prices: Iterable[float]) -> list[float]:
    """Those of ``prices`` that were let in."""
    inside = []
    for price in prices:
        try:
            gate.admit(price)
        except Overloaded:
            continue
        inside.append(price)
    return inside


def test_work_is_let_in_up_to_the_bound() -> None:
    gate = Gate(100.0)
    gate.admit(60.0)
    gate.admit(40.0)
    with pytest.raises(Overloaded):
        gate.admit(0.1)
    assert gate.accepted_ms == 100.0


@given(limit=st.floats(1, 1000), prices=st.lists(PRICES, max_size=30))
def test_no_more_than_the_bound_unless_it_is_one_alone(limit: float, prices: list[float]) -> None:
    gate = Gate(limit)
    inside = admitted(gate, prices)
    assert gate.accepted_ms == pytest.approx(sum(inside))
    assert len(inside) == 1 or sum(inside) <= limit * (1 + 1e-9)


@given(
    limit=st.floats(1, 1000), prices=st.lists(PRICES, min_size=1, max_size=30), order=st.randoms(use_true_random=False)
)
def test_an_idle_model_takes_any_one_whatever_came_before(limit: float, prices: list[float], order: Random) -> None:
    gate = Gate(limit)
    inside = admitted(gate, prices)
    order.shuffle(inside)
    for price in inside:
        gate.release(price)
    assert gate.accepted_ms == 0
    gate.admit(1e9)
    with pytest.raises(Overloaded):
        gate.admit(0.001)


def test_what_is_released_can_be_admitted_again() -> None:
    gate = Gate(100.0)
    gate.admit(70.0)
    gate.admit(30.0)
    gate.release(70.0)
    gate.admit(70.0)
    with pytest.raises(Overloaded):
        gate.admit(1.0)


def test_a_refusal_takes_nothing() -> None:
    gate = Gate(100.0)
    gate.admit(90.0)
    for _ in range(5):
        with pytest.raises(Overloaded):
            gate.admit(20.0)
    gate.admit(10.0)


@pytest.mark.parametrize(
    ("accepted_ms", "price_ms", "seconds"),
    [
        (30_000, 1, 1),  # a thousandth of a second is told as one: the header counts in seconds
        (30_000, 1000, 1),
        (30_000, 1001, 2),
        (25_000, 10_000, 5),
        (28_000, 40_000, 28),  # dearer than the bound: it is let in when nothing else is inside
        (45_000, 10, 16),
    ],
)
def test_a_refusal_says_when_to_come_back(accepted_ms: float, price_ms: float, seconds: int) -> None:
    gate = Gate(30_000.0)
    gate.admit(accepted_ms)
    with pytest.raises(Overloaded) as refusal:
        gate.admit(price_ms)
    assert refusal.value.retry_after_s == seconds
    assert f"{accepted_ms / 1000:.1f} s of work" in str(refusal.value)
    assert "30.0 s" in str(refusal.value)
