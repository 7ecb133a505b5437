"""What happened to a job: a bounded log that any number of listeners read, each at its own pace."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import NamedTuple


class Event(NamedTuple):
    """One thing that happened: ``id`` grows from 1 on."""

    id: int
    name: str
    payload: object


class EventLog:
    """Events in order, on the event loop only.

    Passing events, which later ones outdate, are kept up to ``most`` of them and ``most_bytes``, and the oldest go
    first; the others are all kept: their number is for the writer to bound. Listeners hold a place in the log and no
    events, so a slow one costs nothing and misses transient events at most.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.size = 0
        self.ended = False
        self.last_id = 0
        self._most, self._most_bytes = most, most_bytes
        self._events: dict[int, Event] = {}
        self._transient: deque[tuple[int, int]] = deque()
        self._transient_bytes = 0
        self._listeners: set[Listener] = set()

    def add(self, name: str, payload: object, size: int = 0, *, transient: bool = False) -> None:
        """Something happened; ``size`` is how many bytes ``payload`` keeps."""
        assert not self.ended
        self.last_id += 1
        self._events[self.last_id] = Event(self.last_id, name, payload)
        self.size += size
        if transient:
            self._transient.append((self.last_id, size))
            self._transient_bytes += size
            self._drop()
        self._wake_listeners()

    def end(self) -> None:
        """Nothing more will happen."""
        self.ended = True
        self._wake_listeners()

    def after(self, id: int) -> Event | None:
        """The first event that is kept after event ``id``."""
        found = None
        for event in reversed(self._events.values()):
            if event.id <= id:
                break
            found = event
        return found

    def listen(self, after: int = 0) -> "Listener":
        """A reader of what is kept after event ``after``, and of what comes."""
        return Listener(self, after)

    def _drop(self) -> None:
        while len(self._transient) > self._most or self._transient_bytes > self._most_bytes:
            id, size = self._transient.popleft()
            del self._events[id]
            self._transient_bytes -= size
            self.size -= size

    def _wake_listeners(self) -> None:
        for listener in self._listeners:
            listener.wake()

    def _enter(self, listener: "Listener") -> None:
        self._listeners.add(listener)

    def _leave(self, listener: "Listener") -> None:
        self._listeners.discard(listener)


class Listener:
    """A place in a log, used as a context manager; only then it hears what comes."""

    def __init__(self, log: EventLog, after: int) -> None:
        self._log, self._last = log, after
        self._changed = asyncio.Event()
        self._closed = False

    def __enter__(self) -> "Listener":
        self._log._enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._log._leave(self)

    @property
    def over(self) -> bool:
        """Whether no event will come any more."""
        return self._closed or (self._log.ended and self._last >= self._log.last_id)

    def wake(self) -> None:
        """Look at the log again."""
        self._changed.set()

    def close(self) -> None:
        """Hear no more, from now on."""
        self._closed = True
        self.wake()

    async def next(self, within_s: float) -> Event | None:
        """The next event; None when none came within ``within_s`` seconds, or none will."""
        event = self._take()
        if event is None and not self.over:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._changed.wait()
            event = self._take()
        return event

    def _take(self) -> Event | None:
        event = None if self._closed else self._log.after(self._last)
        if event is not None:
            self._last = event.id
        return event
