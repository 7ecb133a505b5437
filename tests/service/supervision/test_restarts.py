import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.supervision.restarts import RestartBudget


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_fifth_death_within_a_minute_is_the_last() -> None:
    clock = Clock()
    budget = RestartBudget(clock=clock)
    for _ in range(4):
        assert budget.note()
        clock.now += 14.9
    assert not budget.note()


def test_deaths_that_are_a_minute_old_do_not_count() -> None:
    clock = Clock()
    budget = RestartBudget(clock=clock)
    for _ in range(20):
        assert budget.note()
        clock.now += 15.0


def test_restarts_wait_longer_after_each_death_and_not_after_a_quiet_minute() -> None:
    clock = Clock()
    budget = RestartBudget(most=100, clock=clock)
    waits = [budget.delay_s()]
    for _ in range(8):
        budget.note()
        waits.append(budget.delay_s())
    assert waits == [0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    clock.now += 60.0
    assert budget.delay_s() == 0.0


@given(st.integers(1, 6), st.floats(0.5, 100), st.lists(st.floats(0, 50), max_size=30))
def test_note_counts_the_deaths_of_the_window(most: int, within_s: float, gaps: list[float]) -> None:
    clock, times = Clock(), list[float]()
    budget = RestartBudget(most, within_s, clock)
    for gap in gaps:
        clock.now += gap
        times.append(clock.now)
        recent = sum(clock.now - time < within_s for time in times)
        assert budget.note() == (recent < most)


@pytest.mark.parametrize(
    ("most", "within_s", "message"), [(0, 60.0, "most is 0"), (5, 0.0, "within_s is 0"), (5, float("nan"), "within_s")]
)
def test_a_budget_of_nothing_is_refused(most: int, within_s: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RestartBudget(most, within_s)
