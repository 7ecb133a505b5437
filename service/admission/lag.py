"""Whether the event loop keeps up with incoming requests.

Admission control bounds the admitted work, and deadlines start when a request is read. Neither sees the requests that
wait unread in sockets. When requests arrive faster than the loop can read and reject them, that backlog grows without a
bound, and every answer is late, even a rejection: docs/decisions/0013-load-shedding-by-event-loop-lag.md.
"""

import time
from collections.abc import Callable

#: The loop is behind after this many seconds of long iterations, minus those of short iterations and idleness.
SUSTAINED_S = 0.5
#: Upper bound of what one iteration counts: a suspended machine says nothing about the load.
MOST_COUNTED_S = SUSTAINED_S / 4


class LoopLag:
    """Measures the event loop's iterations in which requests arrive; more than ``most_s`` seconds are long.

    ``call_soon`` schedules a callback for the next iteration.
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
        """Whether requests arrive faster than the loop handles them. Every request calls this once."""
        if self._began_at is None:
            self._began_at = self._clock()
            self._long_s = max(0.0, self._long_s - (self._began_at - self._ended_at))
            self._call_soon(self._end_iteration)
        return self._long_s >= SUSTAINED_S

    def _end_iteration(self) -> None:
        assert self._began_at is not None
        self._ended_at = self._clock()
        iteration_s = self._ended_at - self._began_at
        self._began_at = None
        long_s = self._long_s + (min(iteration_s, MOST_COUNTED_S) if iteration_s > self._most_s else -iteration_s)
        # Capped just above the threshold, so that the loop recovers soon once its iterations are short.
        self._long_s = min(max(0.0, long_s), 1.1 * SUSTAINED_S)
