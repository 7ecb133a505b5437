"""From bytes and query strings to a checked request; every complaint names its field.

The body's type is detected from its first bytes: Content-Type is often missing or wrong.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import ParamSpec, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from starlette.requests import Request

from service.api.request.form import boundary_of, form_fields
from service.api.request.schemas import Showing
from service.api.request.uploads import PICTURE_FIELD, is_picture
from service.decoding.pool import readers_of
from service.errors import BadRequest, BodyTooLarge, BodyTooSlow, FieldProblem, InvalidField
from service.request_info import info_of
from service.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
Schema = TypeVar("Schema", bound=BaseModel)

# Problems that one answer tells, and characters of a field's name: an answer must not be larger than what it refuses.
MAX_PROBLEMS = 10
MAX_ECHO = 80

#: The most strings of one JSON body that hold uploads.
MOST_UPLOADS = 16

#: The largest body that is parsed on the event loop; a turn of the loop is to take milliseconds at most.
INLINE_BYTES = 65_536


async def read_request(request: Request, settings: Settings, schema: type[Schema], *, pictures: int = 0) -> Schema:
    """The request in the body of ``request``, with up to so many ``pictures`` in it.

    JSON or a form (multipart/form-data), and nothing in the query; or one picture as it is or nothing, with the other
    fields in the query. Raises as ``read_body``, ``off_loop``, ``parse_json`` and ``parse_query``.
    """
    body = await read_body(request, settings, pictures)
    return await off_loop(settings, body, parse_body, schema, request, settings, body)


async def off_loop(settings: Settings, body: bytes, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` makes of ``body``: at once if it is small, else in a bounded pool of threads. Raises TooBusy."""
    if len(body) <= INLINE_BYTES:
        return work(*args, **kwargs)
    return await readers_of(settings).run(work, *args, **kwargs)


def parse_body(schema: type[Schema], request: Request, settings: Settings, body: bytes) -> Schema:
    """The request in ``body``, the whole one of ``request``, as ``read_request`` has it. Raises BodyTooLarge too."""
    if is_picture(body):
        return parse_fields(schema, [*request.query_params.multi_items(), (PICTURE_FIELD, body)])
    if not body:
        return parse_query(schema, request)
    check_no_query(request)
    boundary = None if body[:1] == b"{" else boundary_of(body, request.headers.get("content-type", ""))
    if boundary is not None:
        return parse_fields(schema, form_fields(body, boundary, settings.max_body_bytes))
    check_json_size(body, settings.max_body_bytes)
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

    Raises BodyTooLarge as soon as too many bytes have come; BodyTooSlow when it is not whole in time.
    """
    # Base64 takes four bytes for three.
    limit = settings.max_body_bytes + pictures * (settings.max_image_bytes * 4 // 3 + 4)
    info = info_of(request.scope)
    whole, info.body = info.body, None
    body = await _receive(request, settings, limit) if whole is None else bytes(whole)
    if whole is not None:
        whole.clear()  # the protocol keeps it until the request is answered
    if len(body) > limit:
        raise BodyTooLarge(limit)
    return body


def check_json_size(body: bytes, most: int) -> None:
    """Raise BodyTooLarge where JSON has more than ``most`` bytes beside a few long strings, which uploads are."""
    if len(body) <= most:
        return
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
    info_of(request.scope).arrived_at = time.monotonic()  # how slowly it was sent is not how slow we are
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

    A field that the schema calls repeatable may come several times, and is a list then. An optional field that is empty
    counts as absent, and so does every empty file: that is how a browser sends a field that was not filled in.
    """
    values: dict[str, list[str | bytes]] = {}
    for name, value in pairs:
        if not value and _may_be_blank(schema, name, value):
            continue
        if name in values and name not in _repeatable(schema):
            raise InvalidField.of(echoed(name), "was given more than once")
        values.setdefault(name, []).append(value)
    try:
        # Not strict: numbers are text here.
        return schema.model_validate({name: _value(schema, name, all_) for name, all_ in values.items()}, strict=False)
    except ValidationError as failure:
        raise _invalid(schema, failure) from None


def _may_be_blank(schema: type[BaseModel], name: str, value: str | bytes) -> bool:
    """Whether an empty value of the field ``name`` stands for none; a name that is unknown is to be refused."""
    field = _fields(schema).get(name)
    return field is not None and (isinstance(value, bytes) or not field.is_required())


def _value(schema: type[BaseModel], name: str, given: list[str | bytes]) -> object:
    """What a field was given: a list where it came several times, or can be nothing else."""
    only_list = name in _repeatable(schema) and int not in get_args(_fields(schema)[name].annotation)
    return given if only_list or len(given) > 1 else given[0]


def _repeatable(schema: type[BaseModel]) -> frozenset[str]:
    return schema.repeatable if issubclass(schema, Showing) else frozenset()


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
        field = _fields(schema).get(part)
        inner = None if field is None else _schema_in(field.annotation)
        if inner is None:
            break
        schema = inner
    return pointer, schema


def _schema_in(annotation: object) -> type[BaseModel] | None:
    """The schema of the objects that a field holds: one, a list of them, or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _schema_in(each)) is not None), None)


@lru_cache
def _fields(schema: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """The fields by the names that requests have for them."""
    return {field.alias or name: field for name, field in schema.model_fields.items()}
