"""How far the jobs of a lane are: one look at the lane serves everybody who asks within a second."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from service.engine.lane import Lane, LaneSnapshot
from service.engine.submission import Submission

#: The least seconds between two looks at a lane. A look visits every row, under the lock that the engine threads need.
REFRESH_S = 1.0


class Remaining(NamedTuple):
    """What is left of a job.

    ``rows_ahead``: rows of others that join before its next one; ``calls``: of each row that has not ended, how many
    rows of network calls it still takes.
    """

    rows_ahead: int
    calls: Sequence[int]


class Snapshot(NamedTuple):
    """The jobs of a lane at ``taken_at`` seconds. It keeps none of them in memory."""

    taken_at: float
    remaining: WeakKeyDictionary[Submission[Any], Remaining]


class ProgressCache:
    """The latest snapshot of each lane, by ``look``, which is taken at most every ``REFRESH_S`` seconds.

    Used on the event loop only.
    """

    def __init__(self, look: Callable[[Lane], LaneSnapshot], clock: Callable[[], float] = time.monotonic) -> None:
        self._look, self._clock = look, clock
        self._kept: WeakKeyDictionary[Lane, Snapshot] = WeakKeyDictionary()

    def remaining(self, lane: Lane, job: Submission[Any], calls: Sequence[int]) -> Remaining:
        """What is left of ``job``, which was put into ``lane`` with rows of so many ``calls``.

        At most ``REFRESH_S`` old. A job that came after the last look waits behind all that waits now.
        """
        if job.done:
            return Remaining(0, ())
        snapshot = self._kept.get(lane)
        if snapshot is None or self._clock() - snapshot.taken_at >= REFRESH_S:
            snapshot = self._kept[lane] = Snapshot(self._clock(), remaining_by_job(self._look(lane)))
        return snapshot.remaining.get(job) or Remaining(max(0, lane.waiting - 1), calls)


def remaining_by_job(look: LaneSnapshot) -> WeakKeyDictionary[Submission[Any], Remaining]:
    """What is left of every job that a look at a lane found; takes time in proportion to the number of rows."""
    found: WeakKeyDictionary[Submission[Any], Remaining] = WeakKeyDictionary()
    calls: dict[Submission[Any], list[int]] = {}
    for row, left in look.under_way:
        calls.setdefault(row.job, []).append(left)
    for place, request in enumerate(look.queued):
        job = request[0].job
        found[job] = Remaining(place, [*calls.pop(job, ()), *(row.spec.calls for row in request)])
    for job, each in calls.items():
        found[job] = Remaining(0, each)
    return found
