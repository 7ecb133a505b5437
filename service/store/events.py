"""A job's events: a bounded log that any number of listeners read, each at its own pace."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol


class Event(NamedTuple):
    """One event; ``id`` counts from 1. ``payload`` is encoded (bytes) where it comes from another process."""

    id: int
    name: str
    payload: object


class Woken(Protocol):
    """Receives the changes of a log."""

    def wake(self) -> None:
        """Have a look at the log again."""


class EventListener(Protocol):
    """A reader of events, in order and each once. Used as a context manager: it costs nothing before and after."""

    def __enter__(self) -> "EventListener": ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def over(self) -> bool:
        """Whether no event follows."""

    def close(self) -> None:
        """Return no more events."""

    async def next(self, within_s: float) -> Event | None:
        """The next event, or None if there is none within ``within_s`` seconds or none follows."""


class EventLog:
    """Events in order, for the event loop only. Ids continue after ``last_id``.

    Transient events are outdated by later ones: at most ``most`` of them and ``most_bytes`` are kept, the newest. All
    others are kept, and the writer bounds their number. A listener holds a position and no events, so a slow one costs
    no memory and misses transient events only.
    """

    def __init__(self, most: int, most_bytes: int, last_id: int = 0) -> None:
        self.size = 0
        self.ended = False
        self.last_id = last_id
        self._most, self._most_bytes = most, most_bytes
        self._events: dict[int, Event] = {}
        self._transient: deque[tuple[int, int]] = deque()
        self._transient_bytes = 0
        self.listeners: set[Woken] = set()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def transient(self) -> Sequence[int]:
        """Ids of the transient events that are kept."""
        return [id for id, _ in self._transient]

    def add(self, name: str, payload: object, size: int = 0, *, transient: bool = False) -> None:
        """Append an event; ``size`` is the number of bytes that ``payload`` holds."""
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
        """Close the log: no event follows."""
        self.ended = True
        self._wake_listeners()

    def after(self, id: int) -> Event | None:
        """The first kept event after event ``id``, or None."""
        later = self.all_after(id)
        return later[0] if later else None

    def all_after(self, id: int) -> Sequence[Event]:
        """The kept events after event ``id``."""
        found: list[Event] = []
        for event in reversed(self._events.values()):
            if event.id <= id:
                break
            found.append(event)
        return found[::-1]

    def listen(self, after: int = 0) -> "Listener":
        """A reader of the events after event ``after``, kept and future ones."""
        return Listener(self, after)

    def _drop(self) -> None:
        while len(self._transient) > self._most or self._transient_bytes > self._most_bytes:
            id, size = self._transient.popleft()
            del self._events[id]
            self._transient_bytes -= size
            self.size -= size

    def _wake_listeners(self) -> None:
        for listener in self.listeners:
            listener.wake()


class Listener:
    """A position in a log. Used as a context manager, because it is woken only while entered."""

    def __init__(self, log: EventLog, after: int) -> None:
        self._log, self._last = log, after
        self._changed = asyncio.Event()
        self._closed = False

    def __enter__(self) -> "Listener":
        self._log.listeners.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._log.listeners.discard(self)

    @property
    def over(self) -> bool:
        """Whether no event follows."""
        return self._closed or (self._log.ended and self._last >= self._log.last_id)

    def wake(self) -> None:
        """Have ``next`` look at the log again."""
        self._changed.set()

    def close(self) -> None:
        """Return no more events."""
        self._closed = True
        self.wake()

    async def next(self, within_s: float) -> Event | None:
        """The next event, or None if there is none within ``within_s`` seconds or none follows."""
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
