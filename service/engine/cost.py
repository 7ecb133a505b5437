"""What a network call costs, measured at warm-up: the price of a request and the best size of a call."""

from bisect import bisect_left
from collections.abc import Mapping


class CostModel:
    """Milliseconds of one network call by its number of rows, known at some sizes and linear between them."""

    def __init__(self, call_ms: Mapping[int, float]) -> None:
        self._sizes = sorted(call_ms)
        self._call_ms = [call_ms[size] for size in self._sizes]
        #: The measured size with the least time a row.
        self.best_bucket = min(self._sizes, key=lambda size: call_ms[size] / size)
        self._row_ms = call_ms[self.best_bucket] / self.best_bucket

    def call_ms(self, rows: int) -> float:
        """Predicted milliseconds of a call with ``rows`` rows; beyond the largest measured size, in proportion."""
        place = bisect_left(self._sizes, rows)
        if place == len(self._sizes):
            return self._call_ms[-1] * rows / self._sizes[-1]
        if self._sizes[place] == rows or place == 0:
            return self._call_ms[place]
        low, high = self._sizes[place - 1], self._sizes[place]
        share = (rows - low) / (high - low)
        return self._call_ms[place - 1] * (1 - share) + self._call_ms[place] * share

    def bucket_within(self, budget_ms: float) -> int:
        """The largest measured size up to the best one whose call fits the budget; 1 when none does."""
        fitting = [size for size in self._sizes if size <= self.best_bucket and self.call_ms(size) <= budget_ms]
        return max(fitting, default=1)

    def price_ms(self, row_calls: int) -> float:
        """Device milliseconds of ``row_calls`` rows of calls, whoever's they are, batched at the best bucket."""
        return row_calls * self._row_ms
