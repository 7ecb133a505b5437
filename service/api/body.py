"""From bytes and query strings to a checked request; every complaint names its field.

What a body is, its first bytes say: clients name no Content-Type, or a wrong one.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.api.schemas import Showing
from service.api.uploads import PICTURE_FIELD, is_picture
from service.errors import BadRequest, BodyTooLarge, BodyTooSlow, FieldProblem, InvalidField
from service.settings import Settings

Schema = TypeVar("Schema", bound=BaseModel)

# Problems that one answer tells, and characters of a field's name: an answer must not be larger than what it refuses.
MAX_PROBLEMS = 10
MAX_ECHO = 80

#: The most strings of one JSON body that hold uploads.
MOST_UPLOADS = 16

# Parts of a form: more than any request has fields, and files.
MAX_FIELDS, MAX_FILES = 64, 8

#: The first line of a form: two dashes and the boundary (RFC 2046, section 5.1.1), then two more where it is the last.
_FIRST_BOUNDARY = re.compile(rb"(--[0-9A-Za-z'()+_,./:=?-]{1,70}?)(--)?\r\n")


async def read_request(request: Request, settings: Settings, schema: type[Schema], *, pictures: int = 0) -> Schema:
    """The request in the body of ``request``, with up to so many ``pictures`` in it.

    JSON or a form (multipart/form-data), and nothing in the query; or one picture as it is or nothing, with the other
    fields in the query. Raises as ``read_body``, ``parse_json`` and ``parse_query``.
    """
    return await parse_body(schema, request, settings, await read_body(request, settings, pictures))


async def parse_body(schema: type[Schema], request: Request, settings: Settings, body: bytes) -> Schema:
    """The request in ``body``, the whole one of ``request``, as ``read_request`` has it."""
    if is_picture(body):
        return parse_fields(schema, [*request.query_params.multi_items(), (PICTURE_FIELD, body)])
    if not body:
        return parse_query(schema, request)
    check_no_query(request)
    if body[:2] == b"--":
        return parse_fields(schema, await read_form(body, settings))
    return parse_json(schema, body)


def check_no_query(request: Request) -> None:
    """Raise InvalidField where a request whose fields are in its body has some in the query too."""
    if request.scope["query_string"]:
        name = next(iter(request.query_params), "")
        raise InvalidField.of(echoed(name), "is in the query of a request with a body", "all fields in the body")


def echoed(name: str) -> str:
    """A field's name that a client gave, as a pointer has it (RFC 6901, section 3), and not too long."""
    return name[:MAX_ECHO].replace("~", "~0").replace("/", "~1")


async def read_body(request: Request, settings: Settings, pictures: int = 0) -> bytes:
    """The whole body, with room for so many uploaded ``pictures``.

    Raises BodyTooLarge as soon as too many bytes have come, or where a JSON body has more in it than pictures account
    for; BodyTooSlow when it is not whole in time.
    """
    # Base64 takes four bytes for three.
    limit = settings.max_body_bytes + pictures * (settings.max_image_bytes * 4 // 3 + 4)
    whole: bytearray | None = request.scope.get("state", {}).pop("body", None)
    body = await _receive(request, settings, limit) if whole is None else bytes(whole)
    if whole is not None:
        whole.clear()  # the protocol keeps it until the request is answered
    if len(body) > limit:
        raise BodyTooLarge(limit)
    if len(body) > settings.max_body_bytes and body[:1] in b"{[ \t\r\n":
        _check_large(body, settings.max_body_bytes)
    return body


def _check_large(body: bytes, most: int) -> None:
    """What of a large JSON body is not in a few long strings, which pictures in base64 are, is as small as ever."""
    if body.count(b'"') > most:
        raise BodyTooLarge(most)
    strings = sorted(map(len, body.split(b'"')[1::2]))
    if len(body) - sum(strings[-MOST_UPLOADS:]) > most:
        raise BodyTooLarge(most)


async def _receive(request: Request, settings: Settings, limit: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise BodyTooLarge(limit)
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
        first = failure.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"The body is not JSON: {first['ctx']['error']}.") from None
        raise _invalid(schema, failure) from None


def parse_query(schema: type[Schema], request: Request) -> Schema:
    """The request in the query string. Raises InvalidField."""
    return parse_fields(schema, request.query_params.multi_items())


def parse_fields(schema: type[Schema], pairs: Iterable[tuple[str, str | bytes]]) -> Schema:
    """The request in the fields of a query or a form, where numbers are text and files are bytes. Raises InvalidField.

    A field that the schema calls repeatable may come several times, and is a list then.
    """
    values: dict[str, list[str | bytes]] = {}
    for name, value in pairs:
        if name in values and name not in _repeatable(schema):
            raise InvalidField.of(echoed(name), "was given more than once")
        values.setdefault(name, []).append(value)
    try:
        # Not strict: numbers are text here.
        return schema.model_validate({name: _value(schema, name, all_) for name, all_ in values.items()}, strict=False)
    except ValidationError as failure:
        raise _invalid(schema, failure) from None


def _value(schema: type[BaseModel], name: str, given: list[str | bytes]) -> object:
    """What a field was given: a list where it came several times, or can be nothing else."""
    only_list = name in _repeatable(schema) and int not in get_args(schema.model_fields[name].annotation)
    return given if only_list or len(given) > 1 else given[0]


def _repeatable(schema: type[BaseModel]) -> frozenset[str]:
    return schema.repeatable if issubclass(schema, Showing) else frozenset()


async def read_form(body: bytes, settings: Settings) -> list[tuple[str, str | bytes]]:
    """The fields of a multipart/form-data body, in order: text as text, files as bytes.

    The boundary is its first line. Raises BadRequest where it is no whole form or has too many parts.
    """
    found = _FIRST_BOUNDARY.match(body)
    if found is None or not body.rstrip().endswith(found[1] + b"--"):
        raise BadRequest("The body begins as a form does (multipart/form-data), and does not end as one.")
    if found[2]:  # the last boundary is the first one: a form without fields
        return []
    try:
        form = await _Form(found[1][2:], body, settings.max_body_bytes).parse()
    except MultiPartException as failure:
        raise BadRequest(f"The body is not a form: {failure.message}") from None
    fields = [
        (name, await value.read() if isinstance(value, UploadFile) else value) for name, value in form.multi_items()
    ]
    await form.close()
    return fields


class _Form(MultiPartParser):
    """Starlette's parser over a body that has come whole, which it would write to a file."""

    spool_max_size = 1 << 40

    def __init__(self, boundary: bytes, body: bytes, max_part_bytes: int) -> None:
        async def chunks() -> AsyncGenerator[bytes, None]:
            yield body

        headers = Headers({"Content-Type": f'multipart/form-data; boundary="{boundary.decode()}"'})
        super().__init__(headers, chunks(), max_fields=MAX_FIELDS, max_files=MAX_FILES, max_part_size=max_part_bytes)


#: What pydantic says of these is in Python's words.
_MESSAGES = {
    "extra_forbidden": "there is no such field",
    "bytes_type": "is a picture: base64, or a file of a form",
    "dict_type": "is an object",
    "model_type": "is an object",
    "model_attributes_type": "is an object",
}


def _invalid(schema: type[BaseModel], failure: ValidationError) -> InvalidField:
    problems: dict[str, FieldProblem] = {}
    for error in failure.errors(include_url=False, include_context=False, include_input=False):
        pointer, owner = _place(schema, error["loc"])
        unknown = error["type"] == "extra_forbidden"
        message = _MESSAGES.get(error["type"], error["msg"].removeprefix("Value error, "))
        message = message[:1].lower() + message[1:]
        if pointer in problems:  # a union complains once for each of its members
            if message in problems[pointer].message:
                continue
            message = f"{problems[pointer].message}, or {message}"
        elif len(problems) == MAX_PROBLEMS:
            break
        problems[pointer] = FieldProblem(pointer, message, ", ".join(sorted(_fields(owner))) if unknown else None)
    return InvalidField(list(problems.values()))


def _place(schema: type[BaseModel], location: Sequence[int | str]) -> tuple[str, type[BaseModel]]:
    """The field that ``location`` names, without what a union appends to it, and the schema of the object it is in."""
    pointer = "#"
    for part in location:
        pointer += f"/{echoed(str(part))}"
        if isinstance(part, int):
            continue
        inner = _schema_in(_fields(schema).get(part))
        if inner is None:
            break
        schema = inner
    return pointer, schema


def _schema_in(annotation: object) -> type[BaseModel] | None:
    """The schema of the objects that a field holds: one, a list of them, or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _schema_in(each)) is not None), None)


def _fields(schema: type[BaseModel]) -> dict[str, object]:
    return {field.alias or name: field.annotation for name, field in schema.model_fields.items()}
