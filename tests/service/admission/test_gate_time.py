"""The clock of one model's door: who would be answered too late, and when to come back."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.drain import DrainRate
from service.admission.gate import HEADROOM, Ask, Gate
from service.errors import Overloaded, TooLate

EXPECTED = 1000.0
FULL_MS = 40_000.0


def enough(needed_s: float) -> float:
    """The time to give, for what needs ``needed_s`` to be promised."""
    return needed_s / HEADROOM


def roomy() -> Gate:
    """A gate that no amount of work fills, for whomever."""
    return Gate(1e12, 1.0, DrainRate(EXPECTED), table_rows=100_000)


def calls_until_done(accepted: Sequence[Ask], ask: Ask) -> int:
    """Calls of one row each until the last row of ``ask`` is done: those served least go first, the newest last."""
    left = [each.calls for each in [*accepted, ask] for _ in range(each.rows)]
    own = range(len(left) - ask.rows, len(left))
    calls = 0
    while any(left[row] for row in own):
        for row, missing in enumerate(left):
            if missing:
                left[row] -= 1
                calls += 1
            if not any(left[row] for row in own):
                break
    return calls


ASKS = st.tuples(st.integers(1, 4), st.integers(1, 12)).map(lambda ask: Ask(*ask, call_ms=100.0))


@given(accepted=st.lists(ASKS, min_size=1, max_size=5), ask=ASKS, spare=st.floats(-0.9, 2))
def test_what_can_be_done_in_time_is_let_in_and_nothing_else(accepted: list[Ask], ask: Ask, spare: float) -> None:
    """At the expected speed, when rows are served in turn, and with time to spare for what is not foreseen."""
    assert 0.5 < HEADROOM <= 1
    gate = roomy()
    for each in accepted:
        gate.admit(each)
    done_s = calls_until_done(accepted, ask) * ask.call_ms / EXPECTED
    timed = ask._replace(within_s=enough(done_s) * (1 + spare))
    if spare > 1e-9:
        gate.admit(timed)
    elif spare < -1e-9:
        with pytest.raises(TooLate) as refusal:
            gate.admit(timed)
        assert refusal.value.retry_after_s == pytest.approx(done_s * -spare, abs=1)


def test_a_short_request_is_not_refused_for_long_ones_in_the_queue() -> None:
    gate = roomy()
    gate.admit(Ask(rows=64, calls=1000, call_ms=1.0))  # 64 s of work
    gate.admit(Ask(rows=1, calls=4, call_ms=1.0, within_s=enough(0.3)))  # its turns: 4 calls of 65 rows
    for calls in (5, 1000):
        with pytest.raises(TooLate):
            gate.admit(Ask(rows=1, calls=calls, call_ms=1.0, within_s=enough(0.3)))


def test_a_long_request_counts_no_more_of_short_ones_than_they_need() -> None:
    gate = roomy()
    gate.admit(Ask(rows=100, calls=1, call_ms=1.0))
    gate.admit(Ask(rows=1, calls=900, call_ms=1.0, within_s=enough(1.001)))


def test_work_that_is_over_is_not_in_the_way() -> None:
    gate = roomy()
    over, open_still = Ask(rows=50, calls=10, call_ms=1.0), Ask(rows=1, calls=10, call_ms=1.0)
    gate.admit(over)
    gate.admit(open_still)
    timed = Ask(rows=1, calls=10, call_ms=1.0, within_s=0.1)
    with pytest.raises(TooLate):
        gate.admit(timed)
    gate.release(over)
    gate.admit(timed)


def test_an_idle_model_takes_a_request_however_little_time_it_has() -> None:
    gate = roomy()
    gate.admit(Ask(rows=64, calls=1000, call_ms=1.0, within_s=0.001))


def test_too_late_says_when_to_come_back() -> None:
    gate = roomy()
    gate.admit(Ask(rows=10, calls=1000, call_ms=1.0))
    with pytest.raises(TooLate) as refusal:
        gate.admit(Ask(rows=1, calls=1000, call_ms=1.0, within_s=enough(2.5)))
    assert refusal.value.retry_after_s == 9  # 11 s of work, 8.5 s of it too many
    assert "10 s of work are queued and your deadline is 3.57 s" in str(refusal.value)
    with pytest.raises(TooLate) as refusal:
        gate.admit(Ask(rows=1, calls=1000, call_ms=1.0, within_s=enough(10.9999)))
    assert refusal.value.retry_after_s == 1


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 40), (0.5, 80), (2.0, 20), (0.25, 160)])
def test_the_time_to_come_back_follows_how_fast_work_is_really_done(speed: float, seconds: int) -> None:
    gate = Gate(FULL_MS, 1.0, DrainRate(EXPECTED), table_rows=8)
    for _ in range(240):
        gate.drain.note(speed * EXPECTED / 4, 0.25)
    gate.admit(Ask(1, 1, FULL_MS, "other"))
    with pytest.raises(Overloaded) as told:
        gate.admit(Ask(1, 1, FULL_MS, "this"))
    assert told.value.retry_after_s == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 40), (0.5, 120)])
def test_so_does_what_is_too_late(speed: float, seconds: int) -> None:
    gate = roomy()
    for _ in range(240):
        gate.drain.note(speed * EXPECTED / 4, 0.25)
    gate.admit(Ask(1, 1, FULL_MS, "other"))
    with pytest.raises(TooLate) as told:
        gate.admit(Ask(1, 1, FULL_MS, "this", within_s=enough(FULL_MS / EXPECTED)))
    assert told.value.retry_after_s == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize(("rows", "let_in"), [(255, True), (256, False)])
def test_whoever_must_wait_for_a_place_waits_for_all_that_have_one(rows: int, let_in: bool) -> None:
    gate = Gate(1e12, 1.0, DrainRate(EXPECTED), table_rows=256)
    gate.admit(Ask(rows, calls=50, call_ms=1.0))
    short = Ask(rows=1, calls=5, call_ms=1.0, within_s=enough(5.0))  # its turns take 1.3 s, all the rest 12.8
    if let_in:
        gate.admit(short)
    else:
        with pytest.raises(TooLate) as told:
            gate.admit(short)
        assert told.value.retry_after_s == pytest.approx(8, abs=1)


def test_when_accepted_work_will_be_done_counts_what_is_served_in_turn() -> None:
    gate = roomy()
    assert gate.seconds_until_done(5, 1.0) == 0
    gate.admit(Ask(rows=2, calls=100, call_ms=1.0))
    gate.admit(Ask(rows=3, calls=4, call_ms=1.0))
    for calls, turns in ((4, 5 * 4), (10, 2 * 10 + 3 * 4), (100, 2 * 100 + 3 * 4), (0, 0)):
        assert gate.seconds_until_done(calls, 1.0) == pytest.approx(turns / EXPECTED)
