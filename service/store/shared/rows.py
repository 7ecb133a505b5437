"""Jobs as rows of plain data: what stores that processes share write and read."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from service.store.bounded import Bounds
from service.store.job import JobProgress, State

#: A job that was open in so many processes that died is computed only while no other such job is: the next death
#: says which one it was.
SUSPECT = 2

#: Added to the id of the last event of a job that is computed again: its readers may know events that were never
#: written, and ids must not be used twice.
SKIPPED = 10_000


class StoreRefused(Exception):
    """The store cannot be used as it is; ``str()`` says why, for the operator."""


class Row(NamedTuple):
    """A job; ``about`` and ``error`` are encoded."""

    id: str
    client: str
    created: float
    state: State
    progress: JobProgress
    last_event: int
    ended: float | None
    about: bytes
    error: bytes | None


class EventRow(NamedTuple):
    """An event with its encoded data."""

    id: int
    name: str
    transient: bool
    data: bytes


class News(NamedTuple):
    """What has happened to a job. ``size`` is its size without its events and result.

    ``events`` follow those that are kept; transient events before ``transient_from`` are outdated. ``ended``: this is
    the end, with a ``result`` or an ``error``.
    """

    id: str
    state: State
    progress: JobProgress
    last_event: int
    size: int
    about: bytes
    events: Sequence[EventRow] = ()
    transient_from: int = 0
    ended: bool = False
    result: bytes | None = None
    error: bytes | None = None


class New(NamedTuple):
    """What is fixed when a job is added; ``recipe`` is called in a thread, because it copies uploads."""

    client: str
    model: str
    created: float
    recipe: Callable[[], bytes]


class Limits(NamedTuple):
    """What the store may hold: ``jobs``, and bytes of the recipes of open ones, most of which are uploads."""

    jobs: Bounds
    recipe_bytes: int
