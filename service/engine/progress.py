"""How far the jobs of a lane are. One answer per lane and second serves all requests for progress."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from service.engine.backend import LaneHandle
from service.engine.lane import LaneSnapshot
from service.engine.submission import Job, Submission

#: Seconds that an answer is used: a snapshot visits every row under the lock of the engine threads.
REFRESH_S = 1.0


class Remaining(NamedTuple):
    """The remaining work of a job.

    ``rows_ahead``: other jobs' rows that join the table before its next one. ``calls``: the forward-pass rows that each
    of its unfinished rows still needs.
    """

    rows_ahead: int
    calls: Sequence[int]


#: The remaining work of a lane's jobs; it keeps no job in memory.
LaneProgress = WeakKeyDictionary[Job, Remaining]


class KnownProgress(NamedTuple):
    """The remaining work of a lane's jobs, as it was asked for at ``asked_at`` seconds."""

    asked_at: float
    remaining: LaneProgress


class ProgressCache:
    """Each lane's latest progress, asked for at most every ``REFRESH_S`` seconds. Use it on the event loop only."""

    def __init__(
        self, progress: Callable[[LaneHandle], LaneProgress], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._clock = progress, clock
        self._lanes: WeakKeyDictionary[LaneHandle, KnownProgress] = WeakKeyDictionary()

    def remaining(self, lane: LaneHandle, job: Submission[Any], calls: Sequence[int]) -> Remaining:
        """The remaining work of ``job`` in ``lane``; ``calls`` are its rows' forward-pass rows in total.

        A job newer than the latest progress counts as last in the queue.
        """
        if job.done:
            return Remaining(0, ())
        known = self._lanes.get(lane)
        if known is None or self._clock() - known.asked_at >= REFRESH_S:
            known = self._lanes[lane] = KnownProgress(self._clock(), self._progress(lane))
        return known.remaining.get(job) or Remaining(max(0, lane.waiting - 1), calls)


def remaining_by_job(snapshot: LaneSnapshot) -> LaneProgress:
    """The remaining work of every job in a snapshot, in time proportional to its rows."""
    found = LaneProgress()
    calls: dict[Job, list[int]] = {}
    for row, left in snapshot.running:
        calls.setdefault(row.job, []).append(left)
    for ahead, request in snapshot.queued:
        job = request[0].job
        found[job] = Remaining(ahead, [*calls.pop(job, ()), *(row.spec.calls for row in request)])
    for job, each in calls.items():
        found[job] = Remaining(0, each)
    return found
