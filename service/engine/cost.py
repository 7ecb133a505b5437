"""The cost of forward passes: the price of a request, and the batch size that serves most rows per second."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: Prefer the largest bucket within 10 % of the best cost per row: it amortises per-tick overhead.
NEARLY = 1.1
#: Weight of one tick against all earlier ones, and the factor by which it may differ: a machine that stalled for a
#: second says nothing about the model.
LEARNING_RATE = 0.05
FARTHEST = 4.0


class CostModel:
    """Milliseconds of a forward pass by number of rows: measured at some sizes at warm-up, linear in between.

    ``ratio`` corrects all of them by what later ticks cost. Buckets slower than ``tick_ms`` are not used, because every
    new request waits for the tick before it. Changed under the device's lock and read anywhere: a change replaces the
    whole price list.
    """

    def __init__(self, forward_ms: Mapping[int, float], tick_ms: float = math.inf) -> None:
        self._tick_ms = tick_ms
        self._prices = _prices(forward_ms, tick_ms)
        #: Recent cost of forward passes as a multiple of their cost at warm-up.
        self.ratio = 1.0
        #: Milliseconds to decode a picture in a lane of its own; 0 for models whose last step does it.
        self.decode_ms = 0.0

    @property
    def best_bucket(self) -> int:
        """The batch size that serves most rows per second, or nearly so."""
        return self._prices.best_bucket

    @property
    def measured(self) -> dict[int, float]:
        """Milliseconds of a forward pass as measured at warm-up, by the usable batch sizes."""
        return dict(zip(self._prices.sizes, self._prices.forward_ms, strict=True))

    @property
    def largest(self) -> int:
        """The largest usable batch size."""
        return self._prices.sizes[-1]

    def forward_ms(self, rows: int) -> float:
        """Predicted milliseconds of a forward pass with ``rows`` rows; proportional beyond the largest size."""
        return self.ratio * self._prices.measured_ms(rows)

    def bucket_within(self, budget_ms: float) -> int:
        """The largest measured size up to the best bucket that fits the budget; the smallest when none fits."""
        prices = self._prices
        usable = prices.sizes[: bisect_right(prices.sizes, prices.best_bucket)]
        fitting = [size for size in usable if self.ratio * prices.measured_ms(size) <= budget_ms]
        return max(fitting, default=prices.sizes[0])

    def row_ms(self) -> float:
        """Device milliseconds per row at the best bucket."""
        return self.ratio * self._prices.row_ms

    def call_ms(self, calls: int) -> float:
        """As ``row_ms``, with a share of decoding the picture, for each of its ``calls`` forward-pass rows."""
        return self.row_ms() + self.decode_ms / calls

    def warmup_row_ms(self) -> float:
        """``row_ms`` as measured at warm-up, for prices that must not change from one request to the next."""
        return self._prices.row_ms

    def learn(self, rows: int, spent_ms: float) -> None:
        """Correct the prices by a forward pass of ``rows`` rows that took ``spent_ms``."""
        found = spent_ms / self._prices.measured_ms(rows)
        nearest = min(max(found, self.ratio / FARTHEST), self.ratio * FARTHEST)
        self.ratio += LEARNING_RATE * (nearest - self.ratio)

    def scaled(self, factor: float) -> "CostModel":
        """The costs of pictures with ``factor`` times as many pixels."""
        scaled = CostModel({size: factor * ms for size, ms in self.measured.items()}, self._tick_ms)
        scaled.ratio, scaled.decode_ms = self.ratio, factor * self.decode_ms
        return scaled

    def shrink(self, rows: int) -> None:
        """Limit buckets to half of ``rows``: a forward pass of that size does not fit into memory."""
        self.limit(max(1, rows // 2))

    def limit(self, most: int) -> None:
        """Use no batch size above ``most``; the smallest one stays."""
        prices = self._prices
        if prices.sizes[-1] <= most:
            return
        kept = {size: ms for size, ms in zip(prices.sizes, prices.forward_ms, strict=True) if size <= most}
        self._prices = _prices(kept or {prices.sizes[0]: prices.forward_ms[0]}, self._tick_ms)


class _Prices(NamedTuple):
    """Measurements of warm-up: sizes in ascending order, milliseconds of each, and what follows from them."""

    sizes: Sequence[int]
    forward_ms: Sequence[float]
    best_bucket: int
    row_ms: float

    def measured_ms(self, rows: int) -> float:
        """Milliseconds of a forward pass with ``rows`` rows at warm-up."""
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
