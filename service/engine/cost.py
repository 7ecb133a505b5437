"""What a network call costs: the price of a request and the best size of a call."""

import math
from bisect import bisect_left
from collections.abc import Mapping

#: Among sizes whose rows cost nearly the same the largest wins: what a tick costs around its call is shared by more.
NEARLY = 1.1
#: How much one tick's time counts against all before it, and the most it may differ: a machine that stood still for a
#: second says nothing about the model.
LEARNING_RATE = 0.05
FARTHEST = 4.0


class CostModel:
    """Milliseconds of one network call by its number of rows: measured at some sizes at warm-up, linear between them.

    ``ratio`` corrects all of them by what calls have cost since. Calls that take longer than ``tick_ms`` are not worth
    the little that they save: whoever comes next waits for one.
    """

    def __init__(self, call_ms: Mapping[int, float], tick_ms: float = math.inf) -> None:
        self._tick_ms = tick_ms
        self._sizes = sorted(call_ms)
        self._call_ms = [call_ms[size] for size in self._sizes]
        #: What calls cost of late, as a multiple of what they did at warm-up.
        self.ratio = 1.0
        self._choose_bucket()

    def call_ms(self, rows: int) -> float:
        """Predicted milliseconds of a call with ``rows`` rows; beyond the largest measured size, in proportion."""
        return self.ratio * self._measured_ms(rows)

    def bucket_within(self, budget_ms: float) -> int:
        """The largest measured size up to the best one whose call fits the budget; the smallest when none does."""
        fitting = [size for size in self._sizes if size <= self.best_bucket and self.call_ms(size) <= budget_ms]
        return max(fitting, default=self._sizes[0])

    def row_ms(self) -> float:
        """Device milliseconds of one row of a call at the best bucket."""
        return self.ratio * self._row_ms

    def list_row_ms(self) -> float:
        """The same as it was measured at warm-up: what must not change from one request to the next is priced so."""
        return self._row_ms

    def learn(self, rows: int, spent_ms: float) -> None:
        """Correct the prices by what a call of ``rows`` rows has cost."""
        found = spent_ms / self._measured_ms(rows)
        nearest = min(max(found, self.ratio / FARTHEST), self.ratio * FARTHEST)
        self.ratio += LEARNING_RATE * (nearest - self.ratio)

    def shrink(self, rows: int) -> None:
        """No call of ``rows`` rows fits into memory: from here on, half as many at most."""
        most = max(1, rows // 2)
        kept = [place for place, size in enumerate(self._sizes) if size <= most] or [0]
        self._sizes = [self._sizes[place] for place in kept]
        self._call_ms = [self._call_ms[place] for place in kept]
        self._choose_bucket()

    def _choose_bucket(self) -> None:
        call_ms = dict(zip(self._sizes, self._call_ms, strict=True))
        least = min(ms / size for size, ms in call_ms.items())
        cheap = [size for size, ms in call_ms.items() if ms / size <= NEARLY * least]
        #: The size of a call that serves most rows a second, or nearly.
        self.best_bucket = max((size for size in cheap if call_ms[size] <= self._tick_ms), default=min(cheap))
        self._row_ms = call_ms[self.best_bucket] / self.best_bucket

    def _measured_ms(self, rows: int) -> float:
        place = bisect_left(self._sizes, rows)
        if place == len(self._sizes):
            return self._call_ms[-1] * rows / self._sizes[-1]
        if self._sizes[place] == rows or place == 0:
            return self._call_ms[place]
        low, high = self._sizes[place - 1], self._sizes[place]
        share = (rows - low) / (high - low)
        return self._call_ms[place - 1] * (1 - share) + self._call_ms[place] * share
