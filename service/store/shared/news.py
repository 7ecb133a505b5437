"""What happens to a job, as it is written: read from the job on the event loop, encoded in another thread."""

from collections.abc import Sequence
from typing import Generic, NamedTuple

from pydantic_core import to_json

from service.errors import ServiceError
from service.store.codec import Codec
from service.store.events import Event
from service.store.failure import pack_failure
from service.store.job import About, Job, JobProgress, Result, State, Work
from service.store.shared.rows import EventRow, News


class Snapshot(NamedTuple, Generic[Work, Result]):
    """A job at one moment, with the events that are not written yet."""

    job: Job[Work, Result]
    state: State
    progress: JobProgress
    about: About
    own_size: int
    last_event: int
    events: Sequence[Event]
    transient: Sequence[int]
    done: bool
    error: ServiceError | None
    result: Result | None

    @classmethod
    def of(cls, job: Job[Work, Result], written: int) -> "Snapshot[Work, Result]":
        """``job`` now; events up to ``written`` are written."""
        return cls(
            job,
            job.state,
            job.progress,
            job.about,
            job.own_size,
            job.last_event,
            job.log.all_after(written),
            job.log.transient,
            job.done,
            job.error,
            job.result,
        )

    def encoded(self, codec: Codec[Work, Result]) -> News:
        """The same as plain data. Takes as long as encoding its pictures."""
        transient = {*self.transient}
        return News(
            self.job.id,
            self.state,
            self.progress,
            self.last_event,
            self.own_size,
            to_json(self.about),
            [EventRow(each.id, each.name, each.id in transient, codec.event(self.job, each)) for each in self.events],
            min(transient, default=self.last_event + 1),
            self.done,
            None if self.result is None else codec.pack(self.result),
            None if self.error is None else pack_failure(self.error),
        )
