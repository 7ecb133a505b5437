"""How fast a model works its queue off, learned while there is one."""

import math

#: Older work counts for less: after so many seconds, for 1/e.
MEMORY_S = 5.0
#: What is expected weighs as much as so many seconds in which work waited.
PRIOR_S = 0.5
#: No slower than this part of what is expected: a machine that stood still for a minute says nothing about the model.
SLOWEST = 0.05


class DrainRate:
    """``ms_per_s``, the priced device milliseconds done in a second in which more work waited than could be done.

    Two threads do up to 2,000 ms of work in a second; a model that shares its device with a busy one, fewer. A second
    in which nothing waited says nothing: a lone row takes a call of its own, and costs more than its price.
    Whoever serves the model tells; anybody may read.
    """

    def __init__(self, expected_ms_per_s: float) -> None:
        self._slowest = expected_ms_per_s * SLOWEST
        self._prior_ms = expected_ms_per_s * PRIOR_S
        self._worked_ms, self._busy_s = self._prior_ms, PRIOR_S
        self.ms_per_s = expected_ms_per_s

    def note(self, worked_ms: float, busy_s: float) -> None:
        """Learn that ``worked_ms`` were done in ``busy_s`` seconds, in all of which more work waited."""
        kept = math.exp(-busy_s / MEMORY_S)
        self._believe(kept * self._worked_ms + worked_ms, kept * self._busy_s + busy_s)

    def rest(self, idle_s: float) -> None:
        """Learn that for ``idle_s`` seconds no work waited: what was learned fades, and what is expected comes back."""
        kept = math.exp(-idle_s / MEMORY_S)
        self._believe(
            self._prior_ms + kept * (self._worked_ms - self._prior_ms), PRIOR_S + kept * (self._busy_s - PRIOR_S)
        )

    def seconds_for(self, work_ms: float) -> float:
        """How long ``work_ms`` will take."""
        return work_ms / self.ms_per_s

    def _believe(self, worked_ms: float, busy_s: float) -> None:
        self._worked_ms, self._busy_s = worked_ms, busy_s
        self.ms_per_s = max(self._slowest, worked_ms / busy_s)
