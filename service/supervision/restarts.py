"""How often processes may be restarted, and how soon."""

import time
from collections import deque
from collections.abc import Callable


class RestartBudget:
    """Counts deaths in a sliding window. Without it, a process that always dies would be restarted forever.

    ``most`` deaths within ``within_s`` seconds end the service; ``clock`` gives seconds.
    """

    def __init__(self, most: int = 5, within_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        if most < 1:
            raise ValueError(f"most is {most}, must be at least 1")
        if not within_s > 0:
            raise ValueError(f"within_s is {within_s}, must be above 0")
        self.most, self.within_s = most, within_s
        self._clock = clock
        self._deaths: deque[float] = deque(maxlen=most)

    def note(self) -> bool:
        """A process has died: may it be restarted? False from the ``most``-th death within ``within_s`` seconds on."""
        self._deaths.append(self._clock())
        return self._recent() < self.most

    def delay_s(self) -> float:
        """Seconds to wait before the next restart: 0 after a single death, then 0.1, 0.2, 0.4 and so on up to 2."""
        recent = self._recent()
        return min(0.1 * 2 ** (recent - 2), 2.0) if recent > 1 else 0.0

    def _recent(self) -> int:
        now = self._clock()
        while self._deaths and now - self._deaths[0] >= self.within_s:
            self._deaths.popleft()
        return len(self._deaths)
