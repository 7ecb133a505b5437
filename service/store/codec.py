"""How a store that outlives its process has payloads and results as bytes; the part that computes jobs knows how."""

from typing import Protocol, TypeVar

from service.errors import ServiceError
from service.store.events import Event
from service.store.job import Job

Work = TypeVar("Work")
Result = TypeVar("Result")


class Codec(Protocol[Work, Result]):
    """Called in any thread; encoding pictures takes milliseconds."""

    def event(self, job: Job[Work, Result], event: Event) -> bytes:
        """The data of ``event`` as clients read it."""

    def error(self, id: str, failure: ServiceError) -> bytes:
        """The data of the last event of job ``id``, which ends with ``failure``."""

    def pack(self, result: Result) -> bytes:
        """``result`` without the data of the job's last event."""

    def unpack(self, packed: bytes, last: bytes) -> Result:
        """The result of ``pack``; ``last`` is the data of the last event."""
