"""Deadlines in admission control: which requests are rejected as too late, and their Retry-After."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.drain import DrainRate
from service.admission.gate import HEADROOM, Gate, WorkRequest
from service.errors import Overloaded, TooLate

pytestmark = pytest.mark.usefixtures("no_jitter")

EXPECTED = 1000.0
FULL_MS = 40_000.0


def enough(needed_s: float) -> float:
    """The shortest deadline for which work of ``needed_s`` seconds is admitted."""
    return needed_s / HEADROOM


def roomy(drain: DrainRate | None = None) -> Gate:
    """A gate that no amount of work fills."""
    return Gate(1e12, 1.0, drain or DrainRate(EXPECTED), table_rows=100_000)


def calls_until_done(accepted: Sequence[WorkRequest], request: WorkRequest) -> int:
    """Forward passes of one row until the last row of ``request`` is done: least served rows first."""
    left = [each.calls for each in [*accepted, request] for _ in range(each.rows)]
    own = range(len(left) - request.rows, len(left))
    calls = 0
    while any(left[row] for row in own):
        for row, missing in enumerate(left):
            if missing:
                left[row] -= 1
                calls += 1
            if not any(left[row] for row in own):
                break
    return calls


REQUESTS = st.tuples(st.integers(1, 4), st.integers(1, 12)).map(lambda request: WorkRequest(*request, call_ms=100.0))


@given(accepted=st.lists(REQUESTS, min_size=1, max_size=5), request=REQUESTS, spare=st.floats(-0.9, 2))
def test_only_requests_that_meet_their_deadline_are_admitted(
    accepted: list[WorkRequest], request: WorkRequest, spare: float
) -> None:
    """At the initial estimate, with rows served in turn, and with headroom."""
    assert 0.5 < HEADROOM <= 1
    gate = roomy()
    for each in accepted:
        gate.admit(each)
    done_s = calls_until_done(accepted, request) * request.call_ms / EXPECTED
    timed = request._replace(within_s=enough(done_s) * (1 + spare))
    if spare > 1e-9:
        gate.admit(timed)
    elif spare < -1e-9:
        with pytest.raises(TooLate) as rejection:
            gate.admit(timed)
        assert rejection.value.retry_after_s == pytest.approx(done_s * -spare, abs=1)


def test_a_short_request_is_not_rejected_for_long_ones_in_the_queue() -> None:
    gate = roomy()
    gate.admit(WorkRequest(rows=64, calls=1000, call_ms=1.0))  # 64 s of work
    gate.admit(WorkRequest(rows=1, calls=4, call_ms=1.0, within_s=enough(0.3)))  # its turns: 4 calls of 65 rows
    for calls in (5, 1000):
        with pytest.raises(TooLate):
            gate.admit(WorkRequest(rows=1, calls=calls, call_ms=1.0, within_s=enough(0.3)))


def test_a_long_request_counts_no_more_of_short_ones_than_they_need() -> None:
    gate = roomy()
    gate.admit(WorkRequest(rows=100, calls=1, call_ms=1.0))
    gate.admit(WorkRequest(rows=1, calls=900, call_ms=1.0, within_s=enough(1.001)))


def test_finished_work_does_not_count() -> None:
    gate = roomy()
    over, open_still = WorkRequest(rows=50, calls=10, call_ms=1.0), WorkRequest(rows=1, calls=10, call_ms=1.0)
    gate.admit(over)
    gate.admit(open_still)
    timed = WorkRequest(rows=1, calls=10, call_ms=1.0, within_s=0.1)
    with pytest.raises(TooLate):
        gate.admit(timed)
    gate.release(over)
    gate.admit(timed)


def test_an_idle_model_takes_a_request_however_little_time_it_has() -> None:
    gate = roomy()
    gate.admit(WorkRequest(rows=64, calls=1000, call_ms=1.0, within_s=0.001))


def test_too_late_has_a_retry_time() -> None:
    gate = roomy()
    gate.admit(WorkRequest(rows=10, calls=1000, call_ms=1.0))
    with pytest.raises(TooLate) as rejection:
        gate.admit(WorkRequest(rows=1, calls=1000, call_ms=1.0, within_s=enough(2.5)))
    assert rejection.value.retry_after_s == 9  # 11 s of work, 8.5 s of it too many
    assert "10 s of work are queued and your deadline is 3.57 s" in str(rejection.value)
    with pytest.raises(TooLate) as rejection:
        gate.admit(WorkRequest(rows=1, calls=1000, call_ms=1.0, within_s=enough(10.9999)))
    assert rejection.value.retry_after_s == 1


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 40), (0.5, 80), (2.0, 20), (0.25, 160)])
def test_the_retry_time_follows_the_throughput(speed: float, seconds: int) -> None:
    gate = Gate(FULL_MS, 1.0, drain := DrainRate(EXPECTED), table_rows=8)
    for _ in range(240):
        drain.note(speed * EXPECTED / 4, 0.25)
    gate.admit(WorkRequest(1, 1, FULL_MS, "other"))
    with pytest.raises(Overloaded) as rejection:
        gate.admit(WorkRequest(1, 1, FULL_MS, "this"))
    assert rejection.value.retry_after_s == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 40), (0.5, 120)])
def test_the_retry_time_of_too_late_follows_the_throughput(speed: float, seconds: int) -> None:
    gate = roomy(drain := DrainRate(EXPECTED))
    for _ in range(240):
        drain.note(speed * EXPECTED / 4, 0.25)
    gate.admit(WorkRequest(1, 1, FULL_MS, "other"))
    with pytest.raises(TooLate) as rejection:
        gate.admit(WorkRequest(1, 1, FULL_MS, "this", within_s=enough(FULL_MS / EXPECTED)))
    assert rejection.value.retry_after_s == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize(("rows", "admitted"), [(223, True), (224, False)])  # of 256, an eighth is kept free
def test_a_row_that_does_not_fit_into_the_table_waits_for_all_that_do(rows: int, admitted: bool) -> None:
    gate = Gate(1e12, 1.0, DrainRate(EXPECTED), table_rows=256)
    gate.admit(WorkRequest(rows, calls=50, call_ms=1.0))
    short = WorkRequest(rows=1, calls=5, call_ms=1.0, within_s=enough(5.0))  # its turns take 1.3 s, all the rest 12.8
    if admitted:
        gate.admit(short)
    else:
        with pytest.raises(TooLate) as rejection:
            gate.admit(short)
        assert rejection.value.retry_after_s == pytest.approx(8, abs=1)


def test_when_accepted_work_will_be_done_counts_what_is_served_in_turn() -> None:
    gate = roomy()
    assert gate.seconds_until_done(5, 1.0) == 0
    gate.admit(WorkRequest(rows=2, calls=100, call_ms=1.0))
    gate.admit(WorkRequest(rows=3, calls=4, call_ms=1.0))
    for calls, turns in ((4, 5 * 4), (10, 2 * 10 + 3 * 4), (100, 2 * 100 + 3 * 4), (0, 0)):
        assert gate.seconds_until_done(calls, 1.0) == pytest.approx(turns / EXPECTED)


def test_a_client_is_judged_by_its_own_work_and_the_number_of_others() -> None:
    gate = Gate(1e12, 1.0, DrainRate(EXPECTED), table_rows=64)
    for _ in range(100):
        gate.admit(WorkRequest(64, 10, call_ms=1.0, client="flood"))  # 64 s of work, more rows than fit into the table
    good = WorkRequest(1, 10, call_ms=100.0, client="good")  # 1 s of work, 2 s beside one other client
    with pytest.raises(TooLate):
        gate.admit(good._replace(within_s=enough(1.9)))
    gate.admit(good._replace(within_s=enough(2.1)))
    with pytest.raises(TooLate):  # its own work comes first now
        gate.admit(good._replace(within_s=enough(2.1)))
    with pytest.raises(TooLate):
        gate.admit(WorkRequest(1, 10, call_ms=100.0, client="flood", within_s=enough(20)))
