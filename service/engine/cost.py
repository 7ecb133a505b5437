"""What a network call costs: the price of a request and the best size of a call."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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

    Changed under the lock of the device. Read anywhere: all that a read needs of the list is replaced at one stroke.
    """

    def __init__(self, forward_ms: Mapping[int, float], tick_ms: float = math.inf) -> None:
        self._tick_ms = tick_ms
        self._prices = _prices(forward_ms, tick_ms)
        #: What calls cost of late, as a multiple of what they did at warm-up.
        self.ratio = 1.0

    @property
    def best_bucket(self) -> int:
        """The size of a call that serves most rows a second, or nearly."""
        return self._prices.best_bucket

    def forward_ms(self, rows: int) -> float:
        """Predicted milliseconds of a call with ``rows`` rows; beyond the largest measured size, in proportion."""
        return self.ratio * self._prices.measured_ms(rows)

    def bucket_within(self, budget_ms: float) -> int:
        """The largest measured size up to the best one whose call fits the budget; the smallest when none does."""
        prices = self._prices
        usable = prices.sizes[: bisect_right(prices.sizes, prices.best_bucket)]
        fitting = [size for size in usable if self.ratio * prices.measured_ms(size) <= budget_ms]
        return max(fitting, default=prices.sizes[0])

    def row_ms(self) -> float:
        """Device milliseconds of one row of a call at the best bucket."""
        return self.ratio * self._prices.row_ms

    def warmup_row_ms(self) -> float:
        """The same as it was measured at warm-up: what must not change from one request to the next is priced so."""
        return self._prices.row_ms

    def learn(self, rows: int, spent_ms: float) -> None:
        """Correct the prices by what a call of ``rows`` rows has cost."""
        found = spent_ms / self._prices.measured_ms(rows)
        nearest = min(max(found, self.ratio / FARTHEST), self.ratio * FARTHEST)
        self.ratio += LEARNING_RATE * (nearest - self.ratio)

    def shrink(self, rows: int) -> None:
        """No call of ``rows`` rows fits into memory: from here on, half as many at most."""
        most, prices = max(1, rows // 2), self._prices
        kept = {size: ms for size, ms in zip(prices.sizes, prices.forward_ms, strict=True) if size <= most}
        self._prices = _prices(kept or {prices.sizes[0]: prices.forward_ms[0]}, self._tick_ms)


class _Prices(NamedTuple):
    """What warm-up measured: sizes, least first, with the milliseconds of a call each, and what follows from them."""

    sizes: Sequence[int]
    forward_ms: Sequence[float]
    best_bucket: int
    row_ms: float

    def measured_ms(self, rows: int) -> float:
        """Milliseconds of a call with ``rows`` rows at warm-up."""
        place = bisect_left(self.sizes, rows)
        if place == len(self.sizes):
            return self.forward_ms[-1] * rows / self.sizes[-1]
        if self.sizes[place] == rows or place == 0:
            return self.forward_ms[place]
        low, high = self.sizes[place - 1], self.sizes[place]
        share = (rows - low) / (high - low)
        return self.forward_ms[place - 1] * (1 - share) + self.forward_ms[place] * share


def _prices(forward_ms: Mapping[int, float], tick_ms: float) -> _Prices:
    least = min(ms / size for size, ms in forward_ms.items())
    cheap = [size for size, ms in forward_ms.items() if ms / size <= NEARLY * least]
    best_bucket = max((size for size in cheap if forward_ms[size] <= tick_ms), default=min(cheap))
    sizes = sorted(forward_ms)
    return _Prices(sizes, [forward_ms[size] for size in sizes], best_bucket, forward_ms[best_bucket] / best_bucket)
