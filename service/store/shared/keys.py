"""Answers by Idempotency-Key in a shared store: a request that two processes get is computed by one of them."""

import asyncio
import time
from collections.abc import Callable

from service.errors import StoreUnavailable
from service.store.bounded import Bounds
from service.store.keys import KeptAnswer, Key
from service.store.shared.records import KeyRecords

#: Seconds before a key that could not be freed is freed again.
RETRY_S = 1.0


class SharedKeys:
    """``KeyedAnswers`` of rows in a file or on a server. ``clock``: seconds since 1970."""

    def __init__(self, records: KeyRecords, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self._records, self._bounds, self._clock = records, bounds, clock
        self._freeing: set[asyncio.Task[None]] = set()

    async def claim(self, key: Key, fingerprint: bytes) -> KeptAnswer | None:
        """As ``KeyedAnswers.claim``."""
        try:
            return await self._records.claim_key(key, fingerprint, self._clock(), self._bounds)
        except (asyncio.CancelledError, StoreUnavailable):
            self._free(key)  # the store may claim it all the same
            raise

    async def keep(self, key: Key, answer: KeptAnswer) -> None:
        """As ``KeyedAnswers.keep``. Where the store cannot be written, the key is freed later, and nothing is kept."""
        try:
            await self._records.keep_key(key, answer, self._clock(), self._bounds)
        except BaseException as failure:
            self._free(key)
            if not isinstance(failure, StoreUnavailable):
                raise

    async def release(self, key: Key) -> None:
        """As ``KeyedAnswers.release``; later where the store cannot be written now."""
        try:
            await self._records.release_key(key)
        except BaseException as failure:
            self._free(key)
            if not isinstance(failure, StoreUnavailable):
                raise

    def _free(self, key: Key) -> None:
        task = asyncio.create_task(self._keep_freeing(key))
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)

    async def _keep_freeing(self, key: Key) -> None:
        while True:
            try:
                await self._records.release_key(key)
                return
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
