"""Wakes those who wait for a change of a job: one connection listens for them, however many wait."""

import asyncio

from service.errors import StoreUnavailable
from service.store.redis.connection import PAUSE_S, Connection

#: Milliseconds after which an unanswered read of the changes begins anew.
BLOCK_MS = 500
#: Seconds in which a change may have come while the caller was reading the job, and the longest wait then.
RECENT_S = 0.5
AGAIN_S = 0.1
#: The stream of changes keeps about so many; who misses some cannot know which.
MOST_MISSED = 1024

_STREAM = "{genserve-1}:changes"


class RedisWatch:
    """Reads the stream of changes while somebody waits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._recent: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, id: str, within_s: float, woken: asyncio.Event | None = None) -> None:
        """As ``Changes.wait``."""
        woken = asyncio.Event() if woken is None else woken
        self._waiting.setdefault(id, set()).add(woken)
        if self._task is None:
            self._task = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(min(within_s, AGAIN_S) if self._is_recent(id) else within_s):
                await woken.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting[id].discard(woken)
            if not self._waiting[id]:
                del self._waiting[id]
            woken.clear()

    def changed(self, *ids: str) -> None:
        """As ``Changes.changed``."""
        for id in ids:
            self._recent[id] = asyncio.get_running_loop().time()
            for woken in self._waiting.get(id, ()):
                woken.set()

    def close(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
        self.changed(*self._waiting)

    def _is_recent(self, id: str) -> bool:
        now = asyncio.get_running_loop().time()
        while self._recent and now - next(iter(self._recent.values())) > RECENT_S:
            del self._recent[next(iter(self._recent))]
        return id in self._recent

    async def _read(self) -> None:
        last = ""
        while self._waiting or not last:
            try:
                last = await self._read_after(last) if last else await self._last()
            except StoreUnavailable:
                last = ""
                await asyncio.sleep(PAUSE_S)
        self._task = None

    async def _last(self) -> str:
        """The id of the last change; what happened before is unknown, so all have a look."""
        found = await self._connection.command("XREVRANGE", _STREAM, "+", "-", "COUNT", 1)
        self.changed(*self._waiting)
        return found[0][0].decode() if found else "0-0"

    async def _read_after(self, last: str) -> str:
        found = await self._connection.command("XREAD", "BLOCK", BLOCK_MS, "STREAMS", _STREAM, last)
        entries = found[0][1] if found else []
        ids = {fields[b"id"].decode() for _, fields in entries}
        self.changed(*(self._waiting if len(entries) >= MOST_MISSED else ids & self._waiting.keys()))
        return entries[-1][0].decode() if entries else last
