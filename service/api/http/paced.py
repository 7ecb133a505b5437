"""Documents that cost milliseconds to make and nothing to ask for: requests at the same time share one."""

import asyncio
import time
from collections.abc import Callable, Hashable

#: The share of the event loop's time that making documents may take, and the seconds of it that may be saved up.
SHARE = 0.1
BURST_S = 0.25
#: Shortest wait in seconds: rounding may leave one that no clock can measure.
LEAST_WAIT_S = 0.001


class Paced:
    """Makes documents at a bounded rate, each after it was asked for; a request beyond the rate waits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: dict[Hashable, asyncio.Task[bytes]] = {}
        #: Seconds that documents took, less those of the share since, at a time.
        self._used_s, self._at = 0.0, clock()

    async def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The document of ``key``, made by ``make`` now or after a pause. ``key`` is one of few. Raises as ``make``."""
        if key not in self._pending:
            self._pending[key] = asyncio.create_task(self._made(key, make))
        return await asyncio.shield(self._pending[key])

    async def _made(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        while (wait_s := self._wait_s()) > 0:
            await asyncio.sleep(max(LEAST_WAIT_S, wait_s))
        del self._pending[key]  # who asks from now on may need to see what happened meanwhile
        began = self._clock()
        try:
            return make()
        finally:
            self._used_s += self._clock() - began

    def _wait_s(self) -> float:
        """Seconds until the next document may be made."""
        now = self._clock()
        self._used_s, self._at = max(0.0, self._used_s - SHARE * (now - self._at)), now
        return (self._used_s - BURST_S) / SHARE
