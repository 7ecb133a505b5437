"""From bytes and query strings to a checked request; every complaint names its field."""

import asyncio
import time
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from service.errors import BadRequest, BodyTooLarge, BodyTooSlow, FieldProblem, InvalidField
from service.settings import Settings

Schema = TypeVar("Schema", bound=BaseModel)

# Problems that one answer tells, and characters of a field's name: an answer must not be larger than what it refuses.
MAX_PROBLEMS = 10
MAX_ECHO = 80


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body.

    Raises BodyTooLarge as soon as too many bytes have come, BodyTooSlow when it is not whole in time.
    """
    whole: bytearray | None = request.scope.get("state", {}).get("body")
    if whole is None:
        return await _receive(request, settings)
    if len(whole) > settings.max_body_bytes:
        raise BodyTooLarge(settings.max_body_bytes)
    return bytes(whole)


async def _receive(request: Request, settings: Settings) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_body_bytes:
                    raise BodyTooLarge(settings.max_body_bytes)
    except TimeoutError:
        raise BodyTooSlow(settings.body_timeout_s) from None
    request.scope["state"]["arrived_at"] = time.monotonic()  # how slowly it was sent is not how slow we are
    return bytes(body)


def parse_json(schema: type[Schema], body: bytes) -> Schema:
    """The request in ``body``, whatever Content-Type it came with; an empty one is all defaults.

    Raises BadRequest where it is not JSON, InvalidField where it is not what the schema allows.
    """
    try:
        return schema.model_validate_json(body.strip() or b"{}")
    except ValidationError as failure:
        if failure.errors()[0]["type"] == "json_invalid":
            raise BadRequest(f"The body is not JSON: {failure.errors()[0]['ctx']['error']}.") from None
        raise _invalid(schema, failure) from None


def parse_query(schema: type[Schema], request: Request) -> Schema:
    """The request in the query string. Raises InvalidField."""
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        name = next(name for name, _ in pairs if len(request.query_params.getlist(name)) > 1)
        raise InvalidField.of(name[:MAX_ECHO], "was given more than once")
    try:
        return schema.model_validate_strings(values)
    except ValidationError as failure:
        raise _invalid(schema, failure) from None


def _invalid(schema: type[BaseModel], failure: ValidationError) -> InvalidField:
    problems: dict[str, FieldProblem] = {}
    for error in failure.errors(include_url=False, include_context=False, include_input=False):
        pointer, owner = _place(schema, error["loc"])
        unknown = error["type"] == "extra_forbidden"
        message = "there is no such field" if unknown else error["msg"][:1].lower() + error["msg"][1:]
        if pointer in problems:  # a union complains once for each of its members
            message = f"{problems[pointer].message}, or {message}"
        elif len(problems) == MAX_PROBLEMS:
            break
        problems[pointer] = FieldProblem(pointer, message, ", ".join(sorted(_fields(owner))) if unknown else None)
    return InvalidField(list(problems.values()))


def _place(schema: type[BaseModel], location: Sequence[int | str]) -> tuple[str, type[BaseModel]]:
    """The field that ``location`` names, without what a union appends to it, and the schema of the object it is in."""
    pointer = "#"
    for part in location:
        pointer += f"/{str(part)[:MAX_ECHO]}"
        inner = _fields(schema).get(str(part))
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        schema = inner
    return pointer, schema


def _fields(schema: type[BaseModel]) -> dict[str, object]:
    return {field.alias or name: field.annotation for name, field in schema.model_fields.items()}
