import re
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from service.errors import JobRunning, Overloaded, RateExceeded, ServiceError
from service.retry_after import spread
from service.server.rejections import STOPPING, TOO_MANY, rejection_bytes

SECONDS = st.integers(0, 10**9)


@given(SECONDS, st.integers())
def test_a_wait_is_never_shorter_and_at_most_half_as_long_again(least_s: int, seed: int) -> None:
    wait_s = spread(least_s, Random(seed).randint)
    assert least_s <= wait_s <= 1.5 * least_s + 1


def test_clients_that_are_rejected_together_return_at_different_times() -> None:
    waits = [spread(20, Random(client).randint) for client in range(1000)]
    assert {*waits} == {*range(20, 32)}
    assert max(waits.count(each) for each in {*waits}) < 150


@given(SECONDS)
def test_header_and_sentence_of_a_rejection_say_the_same(least_s: int) -> None:
    for failure in (Overloaded(28.0, 30.0, least_s), RateExceeded(500.0, least_s)):
        assert failure.retry_after_s is not None
        assert least_s <= failure.retry_after_s <= 1.5 * least_s + 1
        assert failure.detail.endswith(f" Try again in {failure.retry_after_s} s.")


def test_rejections_are_spread_and_estimates_of_a_jobs_end_are_not() -> None:
    assert len({Overloaded(28.0, 30.0, 100).retry_after_s for _ in range(100)}) > 10
    assert {JobRunning("a", "running", 100).retry_after_s for _ in range(100)} == {100}
    assert ServiceError("no").retry_after_s is None


def test_last_responses_of_connections_are_spread() -> None:
    for rejection in (TOO_MANY, STOPPING):
        answers = [rejection_bytes(rejection, []) for _ in range(100)]
        headers = [re.findall(rb"\r\nretry-after: (\d+)\r\n", answer) for answer in answers]
        assert headers == [re.findall(rb"Try again in (\d+) s\.\"", answer)[:1] for answer in answers]
        assert {each for found in headers for each in found} == {b"1", b"2"}
