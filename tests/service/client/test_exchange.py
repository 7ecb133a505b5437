from collections.abc import Sequence
from typing import TypeVar

import httpx
import pytest

from service.client import calls
from service.client.errors import GenserveError, Refused, Unreachable
from service.client.exchange import Conversation, Pause, Retries, await_end, collect, perform
from service.client.results import Generation, JobStatus
from tests.service.client.answers import generation, refusal, status

T = TypeVar("T")
NOWHERE = Unreachable(httpx.ConnectError("refused"), "http://nowhere")
SILENT = Unreachable(httpx.ReadTimeout("too long"), "http://slow")
MADE = httpx.Response(200, json=generation())


def hold(conversation: Conversation[T], outcomes: Sequence[httpx.Response | Unreachable]) -> tuple[T, list[float]]:
    """What the conversation ends with when its calls have those outcomes, and the pauses it made."""
    waiting, pauses = iter(outcomes), []
    step = next(conversation)
    while True:
        try:
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                step = conversation.send(None)
            else:
                step = conversation.send(next(waiting))
        except StopIteration as end:
            assert next(waiting, None) is None
            return end.value, pauses


def generate(outcomes: Sequence[httpx.Response | Unreachable], retries: Retries) -> tuple[Generation, list[float]]:
    return hold(perform(calls.generate("vae", {"seed": 7}), retries), outcomes)


def test_a_refusal_is_tried_again_when_it_says() -> None:
    outcomes = [refusal(503, "overloaded", "3"), refusal(429, "share-exceeded", "2"), MADE]
    made, pauses = generate(outcomes, Retries())
    assert made.seeds == (7,)
    assert pauses == [3.0, 2.0]


def test_a_broken_connection_is_tried_again_ever_more_slowly() -> None:
    _, pauses = generate([NOWHERE, NOWHERE, NOWHERE, MADE], Retries(first_pause_s=0.5))
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(refusal(422, "invalid-field", "1"), id="wrong for good"),
        pytest.param(refusal(503, "model-unavailable"), id="with no time to come back"),
        pytest.param(refusal(500, "internal"), id="a fault"),
        pytest.param(SILENT, id="took too long"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(outcome: httpx.Response | Unreachable) -> None:
    with pytest.raises(GenserveError):
        generate([outcome], Retries())


def test_attempts_are_bounded() -> None:
    with pytest.raises(Refused):
        generate([refusal(503, "overloaded", "0")] * 3, Retries(attempts=3))


def test_pauses_are_bounded_in_all() -> None:
    with pytest.raises(Refused) as failure:
        generate([refusal(503, "overloaded", "4"), refusal(503, "overloaded", "7")], Retries(total_s=10))
    assert failure.value.retry_after_s == 7


def test_a_job_is_asked_until_it_ends() -> None:
    told: list[JobStatus] = []
    states = [status("queued", 0.0), status("running", 0.5), status("succeeded", 1.0)]
    outcomes = [httpx.Response(200, json=state) for state in states]
    ended, pauses = hold(await_end("job-1", Retries(), told.append), outcomes)
    assert ended.status == "succeeded"
    assert [each.progress for each in told] == [0.0, 0.5, 1.0]
    assert len(pauses) == 2


def test_a_jobs_pictures_are_fetched_once_it_has_ended() -> None:
    outcomes = [httpx.Response(200, json=status("succeeded")), MADE]
    made, pauses = hold(collect("job-1", calls.job_result("job-1"), Retries()), outcomes)
    assert (made.model, pauses) == ("vae", [])


def test_a_failed_jobs_error_is_raised() -> None:
    outcomes = [httpx.Response(200, json=status("failed")), refusal(504, "deadline-exceeded")]
    with pytest.raises(Refused) as failure:
        hold(collect("job-1", calls.job_result("job-1"), Retries()), outcomes)
    assert failure.value.code == "deadline-exceeded"
