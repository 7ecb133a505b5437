"""Token buckets of device time, one for each API key with a rate. API processes share them in a file.

A bucket is one number: the moment at which it will be full (the generic cell rate algorithm, ATM Forum 1996). Taking
device time moves the moment later, and time that passes fills the bucket without anybody writing.

Processes write the same words without a lock, so a process that dies blocks nobody. Of takings at the same moment all
but one are lost: n processes admit at most n - 1 requests too many, as in docs/decisions/0022.
"""

import math
import mmap
import time
from collections.abc import Callable
from pathlib import Path

#: Buckets of a file, and the most API keys.
MOST = 256
#: A full bucket holds the device time of so many seconds.
BURST_S = 10
NS_PER_S = 1_000_000_000
#: A bucket is full again after this time at the latest, so that no price and no rate overflows its word.
LONGEST_NS = 365 * 86_400 * NS_PER_S
_WORD = 8


class Bucket:
    """The device time that a key may use: ``rate_ms_per_s`` milliseconds a second, and ten seconds' worth at once.

    Its last request may overdraw it: a request larger than a full bucket would otherwise never be admitted. ``clock``
    is in nanoseconds, the same for all processes, and never goes back.
    """

    def __init__(self, words: "memoryview[int]", place: int, rate_ms_per_s: float, clock: Callable[[], int]) -> None:
        self.rate_ms_per_s = rate_ms_per_s
        self._words, self._place, self._clock = words, place, clock

    @property
    def quota_ms(self) -> float:
        """Device milliseconds in a full bucket."""
        return self.rate_ms_per_s * BURST_S

    @property
    def left_ms(self) -> float:
        """Device milliseconds in the bucket; negative after a request that overdrew it."""
        return self.quota_ms - self._until_full_ns() / NS_PER_S * self.rate_ms_per_s

    def wait_s(self) -> int:
        """Whole seconds until a request is admitted; 0 while there is something in the bucket."""
        over_s = self._until_full_ns() / NS_PER_S - BURST_S
        return 0 if over_s < 0 else math.floor(over_s) + 1

    def until_full_s(self) -> int:
        """Whole seconds until the bucket is full, rounded up."""
        return math.ceil(self._until_full_ns() / NS_PER_S)

    def take(self, price_ms: float) -> None:
        """Take the price of an admitted request."""
        full_at = max(self._words[self._place], now := self._clock())
        self._words[self._place] = min(full_at + int(price_ms / self.rate_ms_per_s * NS_PER_S), now + LONGEST_NS)

    def _until_full_ns(self) -> int:
        return max(0, self._words[self._place] - self._clock())


class Buckets:
    """The buckets of one service. Without a ``path`` they are this process's own."""

    def __init__(self, path: Path | None = None, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Raises OSError where the file cannot be mapped, ValueError where it is too short."""
        self._clock = clock
        if path is None:
            self._words = memoryview(bytearray(MOST * _WORD)).cast("q")
            return
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), MOST * _WORD)).cast("q")

    @staticmethod
    def create(path: Path) -> None:
        """A new file of full buckets. Raises OSError if ``path`` exists or the disk is full."""
        path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(bytes(MOST * _WORD))

    def bucket(self, place: int, rate_ms_per_s: float) -> Bucket:
        """The bucket at ``place``, from 0 to 255."""
        return Bucket(self._words, place, rate_ms_per_s, self._clock)

    def fill(self, place: int) -> None:
        """Make the bucket at ``place`` full, for another key."""
        self._words[place] = 0
