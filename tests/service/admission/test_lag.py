import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.lag import SUSTAINED_S, LoopLag
from tests.service.clock import Clock

MOST_S = 0.05


class Loop:
    """An event loop whose iterations take as long as a test says, with requests in each."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._soon: list[Callable[[], None]] = []
        self.lag = LoopLag(MOST_S, self._soon.append, self.clock)

    def turn(self, seconds: float, requests: int = 3) -> list[bool]:
        """What ``behind`` answers to its requests."""
        told = [self.lag.behind() for _ in range(requests)]
        self.clock.now += seconds
        soon, self._soon[:] = self._soon[:], []
        for callback in soon:
            callback()
        return told

    def behind(self) -> bool:
        return self.turn(0.0, requests=1)[0]


@given(turns=st.lists(st.floats(0, MOST_S), max_size=100))
def test_short_turns_keep_up_however_many(turns: list[float]) -> None:
    loop = Loop()
    assert not any(any(loop.turn(seconds)) for seconds in turns)
    assert not loop.behind()


@given(long_s=st.floats(0.051, 2))
def test_long_turns_are_behind_after_half_a_second_of_them(long_s: float) -> None:
    loop = Loop()
    needed = math.ceil(SUSTAINED_S / min(long_s, SUSTAINED_S / 4) - 1e-9)
    for _ in range(needed):
        assert not any(loop.turn(long_s))
    assert all(loop.turn(long_s))


@given(stalls=st.lists(st.floats(0.051, 100), max_size=3))
def test_a_few_stalls_do_not_count(stalls: list[float]) -> None:
    """A machine that was suspended, and then answers all that waited."""
    loop = Loop()
    for seconds in stalls:
        assert not any(loop.turn(seconds))
    assert not loop.behind()


@pytest.mark.parametrize("turns", [4, 100])
def test_it_recovers_soon_once_the_turns_are_short(turns: int) -> None:
    loop = Loop()
    for _ in range(turns):
        loop.turn(1.0)
    assert loop.behind()
    for _ in range(6):
        loop.turn(0.01)
    assert not loop.behind()


def test_without_requests_it_is_idle() -> None:
    loop = Loop()
    for _ in range(4):
        loop.turn(1.0)
    loop.clock.now += 0.06
    assert not loop.behind()


def test_a_turn_is_measured_once_however_many_requests_it_has() -> None:
    one, many = Loop(), Loop()
    for _ in range(5):
        one.turn(0.06, requests=1)
        many.turn(0.06, requests=50)
    assert (one.behind(), many.behind()) == (False, False)
