"""All errors of requests, as one tree:

    ServiceError
    |-- BadRequest            400  the body does not match its content type, such as invalid JSON
    |-- UnknownModel          404  no model of that name is served
    |-- UnknownJob            404  no job has that id
    |-- JobExpired            404  the job ended and is no longer kept
    |-- UnknownVersion        404  the model is served, but not in that version
    |-- NotAcceptable         406  none of the formats in Accept is offered
    |-- BodyTooSlow           408  the body did not arrive in time
    |-- JobRunning            409  the job has no result yet
    |-- KeyInUse              409  a request with that Idempotency-Key is in progress
    |-- JobCanceled           410  the job was cancelled and has no result
    |-- BodyTooLarge          413  the body has more bytes than the limit
    |-- ImageTooLarge         413  an uploaded picture has more bytes or pixels than the limit
    |-- UnsupportedImage      415  an uploaded picture is neither PNG, JPEG nor WebP
    |-- InvalidField          422  a field is unknown, out of range or not supported by the model
    |-- TooExpensive          422  the request alone exceeds the limit of device time
    |-- KeyReused             422  the Idempotency-Key was used for another request
    |-- ShareExceeded         429  the client has used its share of the queue
    |-- ComputeFailed         500  the model produced no usable picture
    |-- Overloaded            503  the queue is full
    |-- TooLate               503  the queue is too long for the request's deadline
    |-- TooBusy               503  more requests arrive than the service can read
    |-- ModelUnavailable      503  the model failed to load, or the service is stopping
    |-- MemoryFull            503  waiting requests hold the maximum of upload memory
    |-- JobsFull              503  the maximum number of jobs is in progress
    |-- StoreUnavailable      503  the job store cannot be read or written
    |-- ServiceStopping       503  the service stopped before the job ended
    `-- DeadlineExceeded      504  the pictures were not ready in time

and all reasons why an operator's change of a model fails, as another:

    ChangeError
    |-- NotForPages           403  a web page sent the request
    |-- UnknownFolder         404  no folder of that name has a manifest
    |-- NotServed             409  the model cannot be unloaded: it is not served
    |-- AlreadyServed         409  the model cannot be loaded: it is served already; reload it
    |-- ChangeUnderWay        409  another change of the same model is in progress
    |-- NoSuchVersion         409  that earlier version is not kept
    |-- FolderNotWritable     409  the manifest cannot be replaced
    |-- ModelUnusable         422  the folder's files cannot be served; the previous version stays in use
    |-- WeightsUnreadable     500  the weights folder cannot be listed
    `-- Starting              503  the models are still being loaded at start

A class has the HTTP status and a code for programs; an instance has a sentence for people.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class FieldProblem:
    """One problem with one field: a JSON pointer fragment to it, a message, and what is allowed."""

    pointer: str
    message: str
    allowed: str | None = None


class ServiceError(Exception):
    """A request that failed; ``str()`` is a sentence for its sender, ``retry_after_s`` whole seconds or None."""

    status = 500
    code = "internal"

    @classmethod
    def codes(cls) -> tuple[str, ...]:
        """All codes: the closed set of values of a metrics label."""
        return (cls.code, *(kind.code for kind in cls.__subclasses__()))

    def __init__(self, detail: str, problems: Sequence[FieldProblem] = (), retry_after_s: int | None = None) -> None:
        self.detail = detail if retry_after_s is None else f"{detail} Try again in {retry_after_s} s."
        self.problems, self.retry_after_s = tuple(problems), retry_after_s
        super().__init__(self.detail)


class BadRequest(ServiceError):
    """The body does not match its content type, such as JSON that does not parse."""

    status, code = 400, "bad-request"


class UnknownModel(ServiceError):
    """No model of that name is served; the message lists those that are."""

    status, code = 404, "unknown-model"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        says = f"There is no model {name[:64]!r}." if name else "The name of a model is missing."
        super().__init__(f"{says} The models are: {', '.join(names) or 'none'}.{hint}")


class UnknownVersion(ServiceError):
    """The model is served, but not in the requested version."""

    status, code = 404, "unknown-version"

    def __init__(self, model: str, served: str) -> None:
        super().__init__(f"{model} is not served in that version. The served version is {served}.")


class UnknownJob(ServiceError):
    """No job has that id."""

    status, code = 404, "unknown-job"

    def __init__(self, id: str) -> None:
        super().__init__(f"There is no job {id[:64]!r}.")


class JobExpired(ServiceError):
    """The job ended and is no longer kept."""

    status, code = 404, "job-expired"

    def __init__(self, id: str, keep_s: float) -> None:
        super().__init__(
            f"The job {id} has expired: an ended job is kept for {keep_s:g} s, or until newer jobs need its memory."
        )


class NotAcceptable(ServiceError):
    """None of the formats in Accept is offered; the message lists those that are."""

    status, code = 406, "not-acceptable"

    def __init__(self, offered: Iterable[str]) -> None:
        super().__init__(f"None of the formats in Accept is offered. The formats are: {', '.join(offered)}.")


class BodyTooSlow(ServiceError):
    """The body did not arrive in time."""

    status, code = 408, "body-too-slow"

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The body did not arrive within {limit_s:g} s.")


class JobRunning(ServiceError):
    """The job has no result yet."""

    status, code = 409, "job-running"

    def __init__(self, id: str, state: str, retry_after_s: int) -> None:
        super().__init__(f"The job {id} is {state} and has no result yet.", retry_after_s=retry_after_s)


class KeyInUse(ServiceError):
    """A request with that Idempotency-Key is in progress, or the maximum number of requests with keys is."""

    status, code = 409, "idempotency-key-in-use"

    def __init__(self) -> None:
        detail = "A request with this Idempotency-Key is in progress, or too many with other keys are."
        super().__init__(detail, retry_after_s=1)


class JobCanceled(ServiceError):
    """The job was cancelled by its sender and has no result."""

    status, code = 410, "job-canceled"

    def __init__(self, id: str) -> None:
        super().__init__(f"The job {id} was cancelled.")


class BodyTooLarge(ServiceError):
    """The body has more bytes than the limit."""

    status, code = 413, "body-too-large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than the limit of {limit} bytes.")


class ImageTooLarge(ServiceError):
    """An uploaded picture has more bytes or pixels than the limit."""

    status, code = 413, "image-too-large"


class UnsupportedImage(ServiceError):
    """An uploaded picture is neither PNG, JPEG nor WebP."""

    status, code = 415, "unsupported-image"


class InvalidField(ServiceError):
    """Fields that are unknown, out of range or not supported by the model."""

    status, code = 422, "invalid-field"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        super().__init__(" ".join(_sentence(problem) for problem in problems), problems)

    @classmethod
    def of(cls, field: str, message: str, allowed: str | None = None) -> "InvalidField":
        """One problem with one field of the body."""
        return cls([FieldProblem(f"#/{field}", message, allowed)])


class TooExpensive(ServiceError):
    """The request alone exceeds the limit of device time. Sent again, it is rejected again."""

    status, code = 422, "too-expensive"

    def __init__(self, price_s: float, limit_s: float, problems: Sequence[FieldProblem] = ()) -> None:
        detail = (
            f"The request needs about {price_s:.3g} s of device time, and the limit for one request is {limit_s:.3g} s."
        )
        super().__init__(detail, problems)
        self.price_s, self.limit_s = price_s, limit_s


class KeyReused(ServiceError):
    """The Idempotency-Key was used for another request."""

    status, code = 422, "idempotency-key-reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another request; a new request needs a new key.")


class ShareExceeded(ServiceError):
    """The client has used its share of the queue."""

    status, code = 429, "share-exceeded"

    def __init__(self, accepted_s: float, limit_s: float, retry_after_s: int) -> None:
        detail = f"About {_duration(accepted_s)} of your work are queued, and the limit for one client is "
        super().__init__(f"{detail}{_duration(limit_s)}.", retry_after_s=retry_after_s)


class ComputeFailed(ServiceError):
    """The model produced no usable picture; other pictures of the batch are not affected."""

    status, code = 500, "compute-failed"


class Overloaded(ServiceError):
    """The queue is full."""

    status, code = 503, "overloaded"

    def __init__(self, accepted_s: float, limit_s: float, retry_after_s: int) -> None:
        detail = f"The model is busy: about {_duration(accepted_s)} of work are queued, and the limit is "
        super().__init__(f"{detail}{_duration(limit_s)}.", retry_after_s=retry_after_s)


class TooLate(ServiceError):
    """The queue is too long for the request's deadline."""

    status, code = 503, "too-late"

    def __init__(self, queued_s: float, deadline_s: float, retry_after_s: int) -> None:
        detail = f"The model is busy: about {_duration(queued_s)} of work are queued and your deadline is "
        super().__init__(f"{detail}{_duration(deadline_s)}.", retry_after_s=retry_after_s)


class TooBusy(ServiceError):
    """More requests arrive than the service can read; this one was not read."""

    status, code = 503, "too-busy"

    def __init__(self) -> None:
        super().__init__("The service is too busy to read this request.", retry_after_s=1)


class ModelUnavailable(ServiceError):
    """The model failed to load, or the service is stopping."""

    status, code = 503, "model-unavailable"


class MemoryFull(ServiceError):
    """Accepted requests hold the maximum of upload memory."""

    status, code = 503, "memory-full"

    def __init__(self, held: int, most: int) -> None:
        detail = f"Waiting requests hold {held} bytes of uploads, and the limit is {most} bytes."
        super().__init__(detail, retry_after_s=1)


class JobsFull(ServiceError):
    """The maximum number of jobs is in progress."""

    status, code = 503, "jobs-full"

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} jobs are in progress, which is the limit.", retry_after_s=1)


class StoreUnavailable(ServiceError):
    """The job store cannot be read or written: its disk is full or its file is locked."""

    status, code = 503, "store-unavailable"


class ServiceStopping(ServiceError):
    """The service stopped before the job ended."""

    status, code = 503, "service-stopping"

    def __init__(self) -> None:
        super().__init__("The service stopped before the job ended.")


class DeadlineExceeded(ServiceError):
    """The pictures were not ready in time; their work was dropped."""

    status, code = 504, "deadline-exceeded"


class ChangeError(Exception):
    """A change of a model that failed; ``str()`` says why. The model that was served before still is."""

    status = 500
    code = "internal"


class NotForPages(ChangeError):
    """A web page sent the request; only programs outside of browsers may."""

    status, code = 403, "not-for-pages"


class UnknownFolder(ChangeError):
    """No folder of that name has a manifest; the message lists those that have one."""

    status, code = 404, "unknown-model"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"No folder {name[:64]!r} has a manifest. Folders with one: {', '.join(sorted(known)) or 'none'}."
        )


class NotServed(ChangeError):
    """The model cannot be unloaded: it is not served."""

    status, code = 409, "not-served"


class AlreadyServed(ChangeError):
    """The model cannot be loaded: it is served already."""

    status, code = 409, "already-served"


class ChangeUnderWay(ChangeError):
    """Another change of the same model is in progress."""

    status, code = 409, "change-under-way"


class NoSuchVersion(ChangeError):
    """That earlier version is not kept; the message lists those that are."""

    status, code = 409, "no-such-version"


class FolderNotWritable(ChangeError):
    """The manifest cannot be replaced."""

    status, code = 409, "folder-not-writable"


class ModelUnusable(ChangeError):
    """The folder's files cannot be served."""

    status, code = 422, "model-unusable"


class WeightsUnreadable(ChangeError):
    """The weights folder cannot be listed."""

    status, code = 500, "weights-unreadable"


class Starting(ChangeError):
    """The models are still being loaded at start."""

    status, code = 503, "starting"


def _duration(seconds: float) -> str:
    return f"{round(seconds, 3):.3g} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _sentence(problem: FieldProblem) -> str:
    allowed = f" Allowed: {problem.allowed}." if problem.allowed else ""
    return f"{problem.pointer.removeprefix('#').removeprefix('/') or 'body'}: {problem.message}.{allowed}"
