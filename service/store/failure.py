"""Errors of jobs as plain data: what a client reads of them is kept, their Python type is not."""

from dataclasses import asdict

from pydantic_core import from_json, to_json

from service.errors import FieldProblem, ServiceError


def pack_failure(failure: ServiceError) -> bytes:
    """``failure`` as JSON."""
    problems = [asdict(problem) for problem in failure.problems]
    return to_json([failure.status, failure.code, failure.detail, problems, failure.retry_after_s])


def unpack_failure(packed: bytes) -> ServiceError:
    """The error of ``pack_failure``; its status and code are those of the original."""
    status, code, detail, problems, retry_after_s = from_json(packed)
    failure = ServiceError(detail, [FieldProblem(**each) for each in problems])
    failure.status, failure.code, failure.retry_after_s = status, code, retry_after_s
    return failure
