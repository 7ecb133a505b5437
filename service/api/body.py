"""From bytes and query strings to a checked request; every complaint names its field."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from service.errors import BadRequest, BodyTooLarge, FieldProblem, InvalidField

Schema = TypeVar("Schema", bound=BaseModel)

MAX_ECHO = 80


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as more than ``limit`` bytes have come."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(limit)
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
    for error in failure.errors(include_url=False):
        # A union reports one complaint for each of its members, all under the field.
        depth = 2 if error["loc"][:1] in (("from",), ("to",)) else 1
        pointer = "#/" + "/".join(str(part)[:MAX_ECHO] for part in error["loc"][:depth])
        allowed = _fields(schema) if error["type"] == "extra_forbidden" else None
        problems.setdefault(pointer, FieldProblem(pointer, _message(error["type"], error["msg"]), allowed))
    return InvalidField(list(problems.values()))


def _message(kind: str, message: str) -> str:
    return "there is no such field" if kind == "extra_forbidden" else message[:1].lower() + message[1:]


def _fields(schema: type[BaseModel]) -> str:
    return ", ".join(sorted(field.alias or name for name, field in schema.model_fields.items()))
