"""Error bodies: problem details (RFC 9457) of the error tree."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.errors import FieldProblem, ServiceError

PROBLEM_JSON = "application/problem+json"


class FieldError(BaseModel):
    """One thing that is wrong with one field."""

    pointer: str = Field(description="JSON pointer, as a fragment.")
    message: str
    allowed: str | None = Field(
        default=None, description="What may stand there.", exclude_if=lambda allowed: allowed is None
    )


class OpenAIError(BaseModel):
    """The error as OpenAI's clients read it."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str


class Problem(BaseModel):
    """An error, as RFC 9457 problem details with the members that other clients look for."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldError]
    error: OpenAIError


def problem_body(id: str, failure: ServiceError) -> dict[str, Any]:
    """What an answer to request or job ``id`` that ends with ``failure`` has in its body."""
    return problem_of(id, failure.status, failure.code, failure.detail, failure.problems).model_dump()


def problem_of(id: str, status: int, code: str, detail: str, problems: Sequence[FieldProblem]) -> Problem:
    """The body of an error with that ``status`` and ``code``; ``id`` is that of the request or job."""
    return Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=f"/requests/{id}",
        code=code,
        request_id=id,
        errors=[FieldError(pointer=each.pointer, message=each.message, allowed=each.allowed) for each in problems],
        error=OpenAIError(
            message=detail,
            type="server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error",
            param=problems[0].pointer.removeprefix("#").removeprefix("/") or None if problems else None,
            code=code,
        ),
    )
