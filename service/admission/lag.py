"""Whether the event loop keeps up with what comes in.

Gates bound the work that is accepted, and deadlines count from when a request was read. Neither sees what waits in the
sockets. Once reading and refusing alone take longer than requests take to come, that grows without a bound, and then
every answer is late, good or bad: docs/decisions/0013-load-shedding-by-event-loop-lag.md.
"""

import time
from collections.abc import Callable

#: Seconds of long turns, less the seconds of short ones and of idleness in between, after which the loop is behind.
SUSTAINED_S = 0.5
#: What one turn counts for at most: a machine that stood still for a while says nothing of what comes in.
MOST_COUNTED_S = SUSTAINED_S / 4


class LoopLag:
    """Measures the turns of an event loop in which requests come; longer than ``most_s`` seconds is long.

    ``call_soon`` has the loop call back in its next turn.
    """

    def __init__(
        self,
        most_s: float,
        call_soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_s, self._call_soon, self._clock = most_s, call_soon, clock
        self._began_at: float | None = None
        self._ended_at = clock()
        self._long_s = 0.0

    def behind(self) -> bool:
        """Whether more comes than the loop can do; to be asked once by every request."""
        if self._began_at is None:
            self._began_at = self._clock()
            self._long_s = max(0.0, self._long_s - (self._began_at - self._ended_at))
            self._call_soon(self._end_turn)
        return self._long_s >= SUSTAINED_S

    def _end_turn(self) -> None:
        assert self._began_at is not None
        self._ended_at = self._clock()
        turn_s = self._ended_at - self._began_at
        self._began_at = None
        long_s = self._long_s + (min(turn_s, MOST_COUNTED_S) if turn_s > self._most_s else -turn_s)
        # A little more than it takes to be behind, for any idleness takes from it; no more, for it ends when turns are
        # short.
        self._long_s = min(max(0.0, long_s), 1.1 * SUSTAINED_S)
