"""Wakes those who wait for a change of the file, which another process may make."""

import asyncio
from contextlib import suppress

from service.errors import StoreUnavailable
from service.store.sqlite.database import Database
from service.store.sqlite.schema import data_version

#: Seconds between two looks at the file.
POLL_S = 0.1


class Watch:
    """Reads the version of the file's data while somebody waits: one number, however many wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, id: str, within_s: float, woken: asyncio.Event | None = None) -> None:  # noqa: ARG002
        """Return after a change of the file, after ``within_s`` seconds, or when ``woken`` is set by another."""
        woken = asyncio.Event() if woken is None else woken
        self._waiting.add(woken)
        if self._task is None:
            self._task = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(within_s):
                await woken.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(woken)
            woken.clear()

    def changed(self, *ids: str) -> None:  # noqa: ARG002
        """Wake all who wait: this process has changed the file."""
        for woken in self._waiting:
            woken.set()

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
        self.changed()

    async def _poll(self) -> None:
        seen = None
        while self._waiting or seen is None:
            with suppress(StoreUnavailable):
                version = await self._database.read(data_version)
                if version != seen:  # the first time too: the file may have changed since those who wait have read it
                    seen = version
                    self.changed()
            await asyncio.sleep(POLL_S)
        self._task = None
