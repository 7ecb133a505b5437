"""All errors of requests, as one tree; those of an operator's changes are in ``service.change_errors``:

    ServiceError
    |-- BadRequest            400  the body does not match its content type, such as invalid JSON
    |-- NoKey                 401  no valid API key
    |-- WrongScope            403  the API key does not permit this
    |-- CrossSite             403  a web page of another site sent the request
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
    |-- WrongHost             421  Host names no host of this service
    |-- InvalidField          422  a field is unknown, out of range or not supported by the model
    |-- TooExpensive          422  the request alone exceeds the limit of device time
    |-- KeyReused             422  the Idempotency-Key was used for another request
    |-- ShareExceeded         429  the client has used its share of the queue
    |-- RateExceeded          429  the API key has used its device time
    |-- ClientJobsFull        429  the client has its share of the jobs in progress
    |-- StreamsFull           429  the client follows the maximum number of jobs
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

A class has the HTTP status and a code for programs; an instance has a sentence for people.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from service.retry_after import spread


@dataclass(frozen=True)
class FieldProblem:
    """One problem with one field: a JSON pointer fragment to it, a message, and what is allowed."""

    pointer: str
    message: str
    allowed: str | None = None


class ServiceError(Exception):
    """A request that failed; ``str()`` is a sentence for its sender, ``retry_after_s`` whole seconds or None.

    Rejections for load (429, 503) ask for a little more than the given ``retry_after_s``, as ``spread`` says.
    """

    status = 500
    code = "internal"
    #: The header WWW-Authenticate of the answer.
    challenge: str | None = None

    @classmethod
    def codes(cls) -> tuple[str, ...]:
        """All codes: the closed set of values of a metrics label."""
        return (cls.code, *(kind.code for kind in cls.__subclasses__()))

    def __init__(self, detail: str, problems: Sequence[FieldProblem] = (), retry_after_s: int | None = None) -> None:
        if retry_after_s is not None and self.status in (429, 503):
            retry_after_s = spread(retry_after_s)
        self.detail = detail if retry_after_s is None else f"{detail} Try again in {retry_after_s} s."
        self.problems, self.retry_after_s = tuple(problems), retry_after_s
        super().__init__(self.detail)


class BadRequest(ServiceError):
    """The body does not match its content type, such as JSON that does not parse."""

    status, code = 400, "bad-request"


class NoKey(ServiceError):
    """The request has no API key, or one that is not valid."""

    status, code = 401, "no-valid-key"
    challenge = 'Bearer realm="genserve"'

    def __init__(self, detail: str, *, invalid: bool) -> None:
        super().__init__(detail)
        if invalid:
            self.challenge = f'{self.challenge}, error="invalid_token"'


class WrongScope(ServiceError):
    """The API key is valid, and does not have the scope that the request needs."""

    status, code = 403, "wrong-scope"

    def __init__(self, name: str, needed: Iterable[str]) -> None:
        scopes = sorted(needed)
        super().__init__(f"The API key {name} has no scope for this. It needs: {' or '.join(scopes)}.")
        self.challenge = f'Bearer realm="genserve", error="insufficient_scope", scope="{" ".join(scopes)}"'


class CrossSite(ServiceError):
    """A web page of another site sent the request, and its origin is not in GENSERVE_CORS_ORIGINS."""

    status, code = 403, "cross-site"

    def __init__(self) -> None:
        super().__init__("Web pages of other origins may not send this: GENSERVE_CORS_ORIGINS does not list them.")


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


class WrongHost(ServiceError):
    """Host names no host of this service: a name that leads to another site's page may have been rebound to it."""

    status, code = 421, "wrong-host"

    def __init__(self, host: str) -> None:
        super().__init__(f"{host[:64]!r} is not a host of this service: GENSERVE_ALLOWED_HOSTS does not list it.")


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


class RateExceeded(ServiceError):
    """The API key has used its device time."""

    status, code = 429, "rate-exceeded"

    def __init__(self, rate_ms_per_s: float, retry_after_s: int) -> None:
        detail = f"This API key has used its device time, which is {rate_ms_per_s:g} ms per second."
        super().__init__(detail, retry_after_s=retry_after_s)


class ClientJobsFull(ServiceError):
    """The client has its share of the jobs in progress."""

    status, code = 429, "client-jobs-full"

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} of your jobs are in progress, which is the limit for a client.", retry_after_s=1)


class StreamsFull(ServiceError):
    """The client follows the maximum number of jobs."""

    status, code = 429, "streams-full"

    def __init__(self, most: int) -> None:
        super().__init__(f"You follow {most} jobs, which is the limit for one client.", retry_after_s=1)


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
    """The job store cannot be read or written: its disk is full, its file is locked, or its server does not answer."""

    status, code = 503, "store-unavailable"


class ServiceStopping(ServiceError):
    """The service stopped before the job ended."""

    status, code = 503, "service-stopping"

    def __init__(self) -> None:
        super().__init__("The service stopped before the job ended.")


class DeadlineExceeded(ServiceError):
    """The pictures were not ready in time; their work was dropped."""

    status, code = 504, "deadline-exceeded"


def _duration(seconds: float) -> str:
    return f"{round(seconds, 3):.3g} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _sentence(problem: FieldProblem) -> str:
    allowed = f" Allowed: {problem.allowed}." if problem.allowed else ""
    return f"{problem.pointer.removeprefix('#').removeprefix('/') or 'body'}: {problem.message}.{allowed}"
