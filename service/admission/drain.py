"""Estimated throughput of a model, measured while work is waiting."""

import math

#: Time constant of the average: work done this many seconds ago counts 1/e.
MEMORY_S = 5.0
#: The initial estimate weighs as much as this many seconds of measurement.
PRIOR_S = 0.5
#: Lower bound, as a fraction of the initial estimate: a machine suspended for a minute says nothing about the model.
SLOWEST = 0.05


class DrainRate:
    """``ms_per_s``: priced device milliseconds completed per second while work was waiting.

    With two threads up to 2,000; fewer for a model that shares its device. Seconds without waiting work are left out:
    a row alone takes a whole forward pass, and costs more than its price. The engine writes, any thread may read. Where
    engines are other processes, ``ms_per_s`` is assigned from their messages.
    """

    def __init__(self, expected_ms_per_s: float) -> None:
        self.ms_per_s = expected_ms_per_s
        self._slowest = expected_ms_per_s * SLOWEST
        self._prior_ms = expected_ms_per_s * PRIOR_S
        self._worked_ms, self._busy_s = self._prior_ms, PRIOR_S

    def seconds_for(self, work_ms: float) -> float:
        """Estimated seconds until ``work_ms`` are completed."""
        return work_ms / self.ms_per_s

    def note(self, worked_ms: float, busy_s: float) -> None:
        """``worked_ms`` were completed in ``busy_s`` seconds, and work was waiting throughout."""
        kept = math.exp(-busy_s / MEMORY_S)
        self._update(kept * self._worked_ms + worked_ms, kept * self._busy_s + busy_s)

    def rest(self, idle_s: float) -> None:
        """No work was waiting for ``idle_s`` seconds: the estimate decays towards its initial value."""
        kept = math.exp(-idle_s / MEMORY_S)
        self._update(
            self._prior_ms + kept * (self._worked_ms - self._prior_ms), PRIOR_S + kept * (self._busy_s - PRIOR_S)
        )

    def _update(self, worked_ms: float, busy_s: float) -> None:
        self._worked_ms, self._busy_s = worked_ms, busy_s
        self.ms_per_s = max(self._slowest, worked_ms / busy_s)
