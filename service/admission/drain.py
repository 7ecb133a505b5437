"""How fast a model works its queue off, learned from what it has finished."""

import math

#: Older work counts for less: after so many busy seconds, for 1/e.
MEMORY_S = 5.0
#: What is expected before anything has finished weighs as much as so many busy seconds.
PRIOR_S = 0.5
#: However little was finished (all of it may have been cancelled), no slower than this part of what was expected.
SLOWEST = 0.05


class DrainRate:
    """Priced device milliseconds finished in a second, over the seconds in which there was something to do.

    Two threads finish up to 2,000 ms of work in a second; a model that shares its device with a busy one, fewer.
    """

    def __init__(self, expected_ms_per_s: float) -> None:
        self._slowest = expected_ms_per_s * SLOWEST
        self._worked_ms = expected_ms_per_s * PRIOR_S
        self._busy_s = PRIOR_S

    def note(self, worked_ms: float, busy_s: float) -> None:
        """Learn that ``worked_ms`` were finished in ``busy_s`` seconds."""
        kept = math.exp(-busy_s / MEMORY_S)
        self._worked_ms = kept * self._worked_ms + worked_ms
        self._busy_s = kept * self._busy_s + busy_s

    def seconds_for(self, work_ms: float) -> float:
        """How long ``work_ms`` will take."""
        return work_ms / max(self._slowest, self._worked_ms / self._busy_s)
