"""Everything that can go wrong with a request, as one tree:

    ServiceError
    |-- BadRequest            400  the body is not what its form promises
    |-- UnknownModel          404  no model of that name is served
    |-- UnknownJob            404  no job of that id was made
    |-- JobExpired            404  the job ended too long ago, or too many have since
    |-- UnknownVersion        404  the model is served in another version
    |-- NotAcceptable         406  none of the asked formats is offered
    |-- BodyTooSlow           408  the body did not come in time
    |-- JobRunning            409  the job has no result yet
    |-- KeyInUse              409  the request of that Idempotency-Key is being answered
    |-- JobCanceled           410  the job has no result, and will have none
    |-- BodyTooLarge          413  more bytes than any valid request needs
    |-- ImageTooLarge         413  an uploaded picture has too many bytes or pixels
    |-- UnsupportedImage      415  an uploaded picture is in a format that is not read
    |-- InvalidField          422  a field is unknown, out of range, or means nothing to this model
    |-- TooExpensive          422  the request alone would take the model for longer than one may
    |-- KeyReused             422  the Idempotency-Key is that of another request
    |-- ShareExceeded         429  the client's accepted work fills its share of the queue
    |-- ComputeFailed         500  the model gave no usable picture for this row
    |-- Overloaded            503  the accepted work already fills the queue
    |-- TooLate               503  the queue is too long for an answer in the time given
    |-- TooBusy               503  more requests come than the service can read
    |-- ModelUnavailable      503  the model's files were refused, or the service is stopping
    |-- MemoryFull            503  the requests that wait hold as many bytes as they may
    |-- JobsFull              503  there are as many jobs that have not ended as there may be
    |-- ServiceStopping       503  the service stopped before the job ended
    `-- DeadlineExceeded      504  the picture was not ready in time

and everything that can keep an operator's change of a model from being made, as another:

    ChangeError
    |-- NotForPages           403  a browser sent it, for a web page
    |-- UnknownFolder         404  no folder of that name has a manifest
    |-- NotServed             409  it cannot be unloaded, because it is not served
    |-- AlreadyServed         409  it cannot be loaded, because it is served: reload it
    |-- ChangeUnderWay        409  another change of the same model is not done yet
    |-- NoSuchVersion         409  no such earlier version is kept
    |-- FolderNotWritable     409  the manifest cannot be replaced
    |-- ModelUnusable         422  what the folder holds cannot be served; what served before still does
    |-- WeightsUnreadable     500  the folder of the models cannot be listed
    `-- Starting              503  the models are being loaded for the first time

A class carries its HTTP status and a code that programs can match; an instance says what to do about it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class FieldProblem:
    """One thing wrong with one field: where (a JSON pointer fragment), what, and what is allowed there."""

    pointer: str
    message: str
    allowed: str | None = None


class ServiceError(Exception):
    """A request that cannot be answered as asked; ``str()`` is a sentence for its sender."""

    status = 500
    code = "internal"
    retry_after_s: int | None = None

    @classmethod
    def codes(cls) -> tuple[str, ...]:
        """The codes that an error can have: the closed set that metrics are labelled by."""
        return (cls.code, *(kind.code for kind in cls.__subclasses__()))

    def __init__(self, detail: str, problems: Sequence[FieldProblem] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = tuple(problems)


class BadRequest(ServiceError):
    """The body is not what its form promises, such as JSON that does not parse."""

    status, code = 400, "bad-request"


class UnknownModel(ServiceError):
    """No model of that name is served; says which are."""

    status, code = 404, "unknown-model"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        super().__init__(f"There is no model {name[:64]!r}. The models are: {', '.join(names) or 'none'}.{hint}")


class UnknownVersion(ServiceError):
    """The model is served, and not in the version that was asked for."""

    status, code = 404, "unknown-version"

    def __init__(self, model: str, served: str) -> None:
        super().__init__(f"{model} is not served in that version. There is: {served}.")


class UnknownJob(ServiceError):
    """No job of that id was made."""

    status, code = 404, "unknown-job"

    def __init__(self, id: str) -> None:
        super().__init__(f"There is no job {id[:64]!r}.")


class JobExpired(ServiceError):
    """The job ended, and is no longer kept."""

    status, code = 404, "job-expired"

    def __init__(self, id: str, keep_s: float) -> None:
        super().__init__(
            f"The job {id} has expired: a job that ended is kept for {keep_s:g} s, or until newer ones need its room."
        )


class NotAcceptable(ServiceError):
    """None of the formats in Accept is offered; lists those that are."""

    status, code = 406, "not-acceptable"

    def __init__(self, offered: Iterable[str]) -> None:
        super().__init__(f"None of the formats in Accept is offered here. There are: {', '.join(offered)}.")


class BodyTooSlow(ServiceError):
    """The body did not come in time."""

    status, code = 408, "body-too-slow"

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The body did not come within {limit_s:g} s.")


class JobRunning(ServiceError):
    """The job has no result yet."""

    status, code = 409, "job-running"

    def __init__(self, id: str, state: str, retry_after_s: int) -> None:
        super().__init__(f"The job {id} is {state}, and has no result yet.")
        self.retry_after_s = retry_after_s


class KeyInUse(ServiceError):
    """The request of that Idempotency-Key is being answered."""

    status, code = 409, "idempotency-key-in-use"
    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("The request with this Idempotency-Key is being answered, or too many others with one are.")


class JobCanceled(ServiceError):
    """The job was given up by whoever asked for it."""

    status, code = 410, "job-canceled"

    def __init__(self, id: str) -> None:
        super().__init__(f"The job {id} was canceled.")


class BodyTooLarge(ServiceError):
    """More bytes than any valid request needs."""

    status, code = 413, "body-too-large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes.")


class ImageTooLarge(ServiceError):
    """An uploaded picture has more bytes or pixels than are read."""

    status, code = 413, "image-too-large"


class UnsupportedImage(ServiceError):
    """An uploaded picture is in a format that is not read."""

    status, code = 415, "unsupported-image"


class InvalidField(ServiceError):
    """Fields that are unknown, out of range, or mean nothing to this model."""

    status, code = 422, "invalid-field"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        super().__init__(" ".join(_sentence(problem) for problem in problems), problems)

    @classmethod
    def of(cls, field: str, message: str, allowed: str | None = None) -> "InvalidField":
        """One problem with one field of the body."""
        return cls([FieldProblem(f"#/{field}", message, allowed)])


class TooExpensive(ServiceError):
    """The request alone would take the model for longer than one request may. Sent again, it is refused again."""

    status, code = 422, "too-expensive"

    def __init__(self, price_s: float, limit_s: float, problems: Sequence[FieldProblem] = ()) -> None:
        says = f"The request takes about {price_s:.3g} s of the model's time, and one request may take {limit_s:.3g} s."
        super().__init__(says, problems)
        self.price_s, self.limit_s = price_s, limit_s


class KeyReused(ServiceError):
    """The Idempotency-Key is that of another request."""

    status, code = 422, "idempotency-key-reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was sent with another request; a new request needs a new key.")


class ShareExceeded(ServiceError):
    """The client's own accepted work fills its share of the queue."""

    status, code = 429, "share-exceeded"

    def __init__(self, accepted_s: float, limit_s: float, retry_after_s: int) -> None:
        super().__init__(f"{accepted_s:.1f} s of your work are accepted, and one client may have {limit_s:.1f} s.")
        self.retry_after_s = retry_after_s


class ComputeFailed(ServiceError):
    """The model gave no usable picture for this row; its neighbours were not touched."""

    status, code = 500, "compute-failed"


class Overloaded(ServiceError):
    """The accepted work already fills the queue."""

    status, code = 503, "overloaded"

    def __init__(self, accepted_s: float, limit_s: float, retry_after_s: int) -> None:
        super().__init__(f"The queue holds {accepted_s:.1f} s of work and takes {limit_s:.1f} s.")
        self.retry_after_s = retry_after_s


class TooLate(ServiceError):
    """The accepted work is too much for an answer in the time that the request gives."""

    status, code = 503, "too-late"

    def __init__(self, within_s: float, retry_after_s: int) -> None:
        super().__init__(f"The queue is too long for an answer within {round(within_s, 3):g} s.")
        self.retry_after_s = retry_after_s


class TooBusy(ServiceError):
    """More requests come than the service can read, whatever they ask for."""

    status, code = 503, "too-busy"
    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("More requests come than this service can read.")


class ModelUnavailable(ServiceError):
    """The model's files were refused, or the service is stopping."""

    status, code = 503, "model-unavailable"


class MemoryFull(ServiceError):
    """The requests that were accepted and are not finished hold as many bytes of uploads as they may."""

    status, code = 503, "memory-full"
    retry_after_s = 1

    def __init__(self, held: int, most: int) -> None:
        super().__init__(f"The requests that wait hold {held} bytes of uploads, and together may hold {most}.")


class JobsFull(ServiceError):
    """There are as many jobs that have not ended as there may be."""

    status, code = 503, "jobs-full"
    retry_after_s = 1

    def __init__(self, most: int) -> None:
        super().__init__(f"There are {most} jobs that have not ended, which is as many as there may be.")


class ServiceStopping(ServiceError):
    """The service stopped before the job ended."""

    status, code = 503, "service-stopping"

    def __init__(self) -> None:
        super().__init__("The service stopped before the job ended.")


class DeadlineExceeded(ServiceError):
    """The picture was not ready in time; its work was dropped."""

    status, code = 504, "deadline-exceeded"


class ChangeError(Exception):
    """A change of a model that was not made, told in a sentence: what served before still does."""

    status = 500
    code = "internal"


class NotForPages(ChangeError):
    """A browser sent it, for a web page, and no person at a terminal."""

    status, code = 403, "not-for-pages"


class UnknownFolder(ChangeError):
    """No folder of that name has a manifest; says which have one."""

    status, code = 404, "unknown-model"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"No folder {name[:64]!r} has a manifest. There are: {', '.join(sorted(known)) or 'none'}.")


class NotServed(ChangeError):
    """It cannot be unloaded, because it is not served."""

    status, code = 409, "not-served"


class AlreadyServed(ChangeError):
    """It cannot be loaded, because it is served."""

    status, code = 409, "already-served"


class ChangeUnderWay(ChangeError):
    """Another change of the same model is not done yet."""

    status, code = 409, "change-under-way"


class NoSuchVersion(ChangeError):
    """No such earlier version is kept; says which are."""

    status, code = 409, "no-such-version"


class FolderNotWritable(ChangeError):
    """The manifest cannot be replaced."""

    status, code = 409, "folder-not-writable"


class ModelUnusable(ChangeError):
    """What the folder holds cannot be served."""

    status, code = 422, "model-unusable"


class WeightsUnreadable(ChangeError):
    """The folder of the models cannot be listed, so nothing is known of what it holds."""

    status, code = 500, "weights-unreadable"


class Starting(ChangeError):
    """The models are being loaded for the first time."""

    status, code = 503, "starting"


def _sentence(problem: FieldProblem) -> str:
    allowed = f" Allowed: {problem.allowed}." if problem.allowed else ""
    return f"{problem.pointer.removeprefix('#').removeprefix('/') or 'body'}: {problem.message}.{allowed}"
