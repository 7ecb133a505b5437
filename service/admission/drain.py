"""Estimated throughput of a model, measured while work is waiting."""

import math
from collections.abc import Sequence
from typing import Protocol

#: Time constant of the average: work done this many seconds ago counts 1/e.
MEMORY_S = 5.0
#: The initial estimate weighs as much as this many seconds of measurement.
PRIOR_S = 0.5
#: Lower bound, as a fraction of the initial estimate: a machine suspended for a minute says nothing about the model.
SLOWEST = 0.05


class Rate(Protocol):
    """A throughput: ``ms_per_s`` is priced device milliseconds completed per second while work is waiting."""

    @property
    def ms_per_s(self) -> float:
        """The current estimate, above 0."""

    def seconds_for(self, work_ms: float) -> float:
        """Estimated seconds until ``work_ms`` are completed."""


class GivenRate:
    """A rate that somebody else measures: assign ``ms_per_s``, finite and above 0, whenever a measurement arrives."""

    def __init__(self, ms_per_s: float) -> None:
        self.ms_per_s = ms_per_s

    def seconds_for(self, work_ms: float) -> float:
        """Estimated seconds until ``work_ms`` are completed."""
        return work_ms / self.ms_per_s


class SumOfRates:
    """The rate of several engines that serve one queue together; each of ``rates``, at least one, may still change."""

    def __init__(self, rates: Sequence[Rate]) -> None:
        if not rates:
            raise ValueError("rates: at least one is needed")
        self._rates = tuple(rates)

    @property
    def ms_per_s(self) -> float:
        """The sum of the current estimates."""
        return sum([rate.ms_per_s for rate in self._rates])

    def seconds_for(self, work_ms: float) -> float:
        """Estimated seconds until ``work_ms`` are completed."""
        return work_ms / self.ms_per_s


class DrainRate(GivenRate):
    """The rate as measured by the engine, which writes it; any thread may read.

    ``ms_per_s`` is up to 2,000 with two threads; fewer for a model that shares its device. Seconds without waiting work
    are left out: a row alone takes a whole forward pass, and costs more than its price.
    """

    def __init__(self, expected_ms_per_s: float) -> None:
        super().__init__(expected_ms_per_s)
        self._slowest = expected_ms_per_s * SLOWEST
        self._prior_ms = expected_ms_per_s * PRIOR_S
        self._worked_ms, self._busy_s = self._prior_ms, PRIOR_S

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
