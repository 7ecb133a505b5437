import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.drain import DrainRate

RATES = st.floats(50, 5000)


def work(rate: DrainRate, ms_per_s: float, busy_s: float, every_s: float = 0.1) -> None:
    """Finish work at ``ms_per_s`` for ``busy_s`` seconds, a piece every ``every_s``."""
    for _ in range(math.ceil(busy_s / every_s)):
        rate.note(ms_per_s * every_s, every_s)


@pytest.mark.parametrize(("expected", "work_ms", "seconds"), [(1000.0, 3000.0, 3.0), (2000.0, 3000.0, 1.5)])
def test_before_any_measurement_it_is_the_initial_estimate(expected: float, work_ms: float, seconds: float) -> None:
    assert DrainRate(expected).seconds_for(work_ms) == pytest.approx(seconds)


@given(expected=RATES, factor=st.floats(0.1, 10), every_s=st.floats(0.01, 3))
def test_it_converges_to_the_real_rate(expected: float, factor: float, every_s: float) -> None:
    rate = DrainRate(expected)
    work(rate, factor * expected, busy_s=60, every_s=every_s)
    assert rate.seconds_for(1000) == pytest.approx(1000 / (factor * expected), rel=0.01)


def test_a_second_of_work_outweighs_the_initial_estimate() -> None:
    rate = DrainRate(1000.0)
    work(rate, 100.0, busy_s=1)
    assert rate.seconds_for(1000) > 2.0  # half-way between the two would be 550 ms a second


@given(before=RATES, after=RATES)
def test_it_forgets(before: float, after: float) -> None:
    rate = DrainRate(1000.0)
    work(rate, before, busy_s=300)
    work(rate, after, busy_s=60)
    assert rate.seconds_for(1000) == pytest.approx(1000 / after, rel=0.01)


def test_it_does_not_forget_at_once() -> None:
    rate = DrainRate(1000.0)
    work(rate, 1000.0, busy_s=60)
    work(rate, 500.0, busy_s=1)
    assert 1.0 < rate.seconds_for(1000) < 1.2


@given(expected=RATES, pieces=st.lists(st.floats(0.001, 1000), max_size=20))
def test_it_is_never_below_a_twentieth_of_the_initial_estimate(expected: float, pieces: list[float]) -> None:
    rate = DrainRate(expected)
    for busy_s in pieces:
        rate.note(0.0, busy_s)
        assert 1.0 <= rate.seconds_for(expected) <= 20 * (1 + 1e-9)
    rate.note(0.0, 1e6)
    assert rate.seconds_for(expected) == pytest.approx(20.0)


@given(before=RATES, idle_s=st.floats(60, 1e5))
def test_without_waiting_work_it_decays_to_the_initial_estimate(before: float, idle_s: float) -> None:
    """Else a model that once shared its device would reject work that it can do, and never measure again."""
    rate = DrainRate(1000.0)
    work(rate, before, busy_s=60)
    rate.rest(idle_s)
    assert rate.seconds_for(1000) == pytest.approx(1.0, rel=0.02)


@given(rests=st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_many_short_rests_are_one_long_one(rests: list[float]) -> None:
    rates = DrainRate(1000.0), DrainRate(1000.0)
    for rate in rates:
        work(rate, 200.0, busy_s=10)
    for rest in rests:
        rates[0].rest(rest)
    rates[1].rest(sum(rests))
    assert rates[0].ms_per_s == pytest.approx(rates[1].ms_per_s)


@given(notes=st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e4)), max_size=30), work_ms=st.floats(0.001, 1e6))
def test_any_wait_is_finite_and_more_work_takes_longer(notes: list[tuple[float, float]], work_ms: float) -> None:
    rate = DrainRate(1000.0)
    for worked_ms, busy_s in notes:
        rate.note(worked_ms, busy_s)
    assert 0 < rate.seconds_for(work_ms) < math.inf
    assert rate.seconds_for(2 * work_ms) == pytest.approx(2 * rate.seconds_for(work_ms))


@given(first=RATES, later=RATES)
def test_a_rate_from_another_process_is_the_last_one_assigned(first: float, later: float) -> None:
    rate = DrainRate(first)
    assert rate.seconds_for(first) == pytest.approx(1.0)
    rate.ms_per_s = later
    assert rate.seconds_for(first) == pytest.approx(first / later)
