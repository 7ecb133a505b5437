"""Retries and polling without I/O, shared by the blocking and the asynchronous client.

A conversation is a generator. It yields steps, a call to send or a pause, and receives the outcome of each; its return
value is the result. The two clients differ only in how they carry out a step.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import httpx

from service.client import calls
from service.client.calls import Call
from service.client.errors import GenserveError, Refused, Unreachable, refused
from service.client.results import JobStatus

T = TypeVar("T")

#: Seconds between two requests for a job's status.
POLL_S = 0.2

#: Statuses that are retried, if the response has Retry-After.
_LATER = frozenset({409, 429, 503})


class Pause(NamedTuple):
    """Wait for some seconds."""

    seconds: float


Outcome = httpx.Response | Unreachable | None
Conversation = Generator[Call[Any] | Pause, Outcome, T]
OnStatus = Callable[[JobStatus], object]


@dataclass(frozen=True, slots=True)
class Retries:
    """Limits of retries: number of attempts, and total seconds of the pauses between them.

    The pause is Retry-After for a rejected request; for a broken connection ``first_pause_s``, doubled every time.
    """

    attempts: int = 5
    total_s: float = 60.0
    first_pause_s: float = 0.2

    def pause_s(self, failure: GenserveError, attempt: int, paused_s: float) -> float | None:
        """Seconds to wait after failed ``attempt``, counted from 1; None for no further attempt."""
        seconds = self._wanted_s(failure, attempt)
        if seconds is None or attempt >= self.attempts or paused_s + seconds > self.total_s:
            return None
        return seconds

    def _wanted_s(self, failure: GenserveError, attempt: int) -> float | None:
        if isinstance(failure, Refused) and failure.status in _LATER:
            return failure.retry_after_s
        if isinstance(failure, Unreachable) and failure.may_pass:
            return self.first_pause_s * 2.0 ** (attempt - 1)
        return None


def perform(call: Call[T], retries: Retries) -> Conversation[T]:
    """Send ``call`` until it succeeds or ``retries`` are used up. Raises GenserveError."""
    attempt, paused_s = 1, 0.0
    while True:
        outcome = yield call
        assert outcome is not None
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return call.read(outcome)
        failure = outcome if isinstance(outcome, Unreachable) else refused(outcome)
        pause_s = retries.pause_s(failure, attempt, paused_s)
        if pause_s is None:
            raise failure
        yield Pause(pause_s)
        attempt, paused_s = attempt + 1, paused_s + pause_s


def await_end(id: str, retries: Retries, on_status: OnStatus | None = None) -> Conversation[JobStatus]:
    """Poll job ``id`` until it has ended; ``on_status`` is called with each status."""
    while True:
        status = yield from perform(calls.job(id), retries)
        if on_status is not None:
            on_status(status)
        if status.ended:
            return status
        yield Pause(POLL_S)


def collect(id: str, call: Call[T], retries: Retries) -> Conversation[T]:
    """Wait for the end of job ``id``, then send ``call``. Raises Refused with the error of a failed or canceled job."""
    yield from await_end(id, retries)
    return (yield from perform(call, retries))
