"""How far the jobs of a lane are. One snapshot per lane and second serves all requests for progress."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from service.engine.lane import Lane, LaneSnapshot
from service.engine.submission import Submission

#: Seconds that a lane's snapshot is used: taking one visits every row under the lock of the engine threads.
REFRESH_S = 1.0


class Remaining(NamedTuple):
    """The remaining work of a job.

    ``rows_ahead``: other jobs' rows that join the table before its next one. ``calls``: the forward-pass rows that each
    of its unfinished rows still needs.
    """

    rows_ahead: int
    calls: Sequence[int]


class LaneProgress(NamedTuple):
    """The remaining work of a lane's jobs at ``taken_at`` seconds; it keeps no job in memory."""

    taken_at: float
    remaining: WeakKeyDictionary[Submission[Any], Remaining]


class ProgressCache:
    """Each lane's latest progress, from ``snapshot`` and at most ``REFRESH_S`` old. Use it on the event loop only."""

    def __init__(self, snapshot: Callable[[Lane], LaneSnapshot], clock: Callable[[], float] = time.monotonic) -> None:
        self._snapshot, self._clock = snapshot, clock
        self._lanes: WeakKeyDictionary[Lane, LaneProgress] = WeakKeyDictionary()

    def remaining(self, lane: Lane, job: Submission[Any], calls: Sequence[int]) -> Remaining:
        """The remaining work of ``job`` in ``lane``; ``calls`` are its rows' forward-pass rows in total.

        A job newer than the snapshot counts as last in the queue.
        """
        if job.done:
            return Remaining(0, ())
        progress = self._lanes.get(lane)
        if progress is None or self._clock() - progress.taken_at >= REFRESH_S:
            progress = self._lanes[lane] = LaneProgress(self._clock(), remaining_by_job(self._snapshot(lane)))
        return progress.remaining.get(job) or Remaining(max(0, lane.waiting - 1), calls)


def remaining_by_job(snapshot: LaneSnapshot) -> WeakKeyDictionary[Submission[Any], Remaining]:
    """The remaining work of every job in a snapshot, in time proportional to its rows."""
    found: WeakKeyDictionary[Submission[Any], Remaining] = WeakKeyDictionary()
    calls: dict[Submission[Any], list[int]] = {}
    for row, left in snapshot.running:
        calls.setdefault(row.job, []).append(left)
    for place, request in enumerate(snapshot.queued):
        job = request[0].job
        found[job] = Remaining(place, [*calls.pop(job, ()), *(row.spec.calls for row in request)])
    for job, each in calls.items():
        found[job] = Remaining(0, each)
    return found
