"""Errors of the client."""

from dataclasses import dataclass

import httpx
from pydantic import TypeAdapter, ValidationError


class GenserveError(Exception):
    """Any failure of a call; ``str()`` is a sentence for people."""


class Unreachable(GenserveError):
    """No response: nothing listens at the address, the connection broke, or the timeout passed."""

    def __init__(self, failure: Exception, url: object) -> None:
        super().__init__(f"No answer from {url}: {str(failure) or type(failure).__name__}")
        self.failure = failure

    @property
    def may_pass(self) -> bool:
        """Whether a retry may help; a call that timed out would take as long again."""
        return isinstance(self.failure, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout)


class Unsendable(GenserveError):
    """The request was not sent: one of its values does not fit into JSON or a URL."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(f"The request cannot be sent: {failure}")


class UnexpectedAnswer(GenserveError):
    """A response that this client cannot read: of another service, or of another version of this one."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """A problem with one field of a request; ``pointer`` is a JSON pointer such as "#/steps"."""

    pointer: str
    message: str
    allowed: str | None = None


class Refused(GenserveError):
    """The service answered with an error. docs/API.md lists the values of ``code``; a proxy's error is "unknown"."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        problems: tuple[FieldProblem, ...] = (),
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.problems = status, code, problems
        self.request_id, self.retry_after_s = request_id, retry_after_s


@dataclass(frozen=True, slots=True)
class _Problem:
    """The members of a problem document (RFC 9457) that the client reads."""

    status: int
    code: str
    detail: str
    errors: tuple[FieldProblem, ...]
    request_id: str


_PROBLEM = TypeAdapter(_Problem)


def refused(response: httpx.Response) -> Refused:
    """The error in ``response``, whose status is 400 or above."""
    after = response.headers.get("retry-after", "")
    try:
        return problem_of(response.content, float(after) if after.isdecimal() else None)
    except ValueError:
        detail = f"{response.url} answered {response.status_code} {response.reason_phrase}."
        return Refused(response.status_code, "unknown", detail, request_id=response.headers.get("x-request-id"))


def problem_of(content: bytes | str, retry_after_s: float | None = None) -> Refused:
    """The error in a problem document (JSON). Raises ValueError if it is not one."""
    try:
        problem = _PROBLEM.validate_json(content)
    except ValidationError as failure:
        raise ValueError(f"not a problem document: {failure.errors()[0]['msg']}") from None
    return Refused(
        problem.status,
        problem.code,
        problem.detail,
        problems=problem.errors,
        request_id=problem.request_id,
        retry_after_s=retry_after_s,
    )
