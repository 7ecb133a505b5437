"""From bytes and query strings to a validated request; every error names its field.

The body's type is detected from its first bytes: Content-Type is often missing or wrong.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from types import UnionType
from typing import Annotated, ParamSpec, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from starlette.requests import Request

from service.admission.memory import Memory
from service.api.request.form import boundary_of, form_fields
from service.api.request.schemas import GenerateRequest, Showing
from service.api.request.uploads import PICTURE_FIELD, is_picture
from service.contract.manifest import Manifest
from service.decoding.pool import readers_of
from service.errors import BadRequest, BodyTooLarge, BodyTooSlow, FieldProblem, InvalidField
from service.request_info import info_of
from service.settings import Settings

#: Reads a body in another API's format; None where ``body`` is not in that format.
BodyTranslator = Callable[[Request, Settings, Manifest, bytes], GenerateRequest | None]

P = ParamSpec("P")
T = TypeVar("T")
Schema = TypeVar("Schema", bound=BaseModel)

#: Most problems in one error, and most characters of a client's field name: an error stays smaller than its request.
MAX_PROBLEMS = 10
MAX_ECHO = 80

#: Most strings of one JSON body that may be uploads.
MOST_UPLOADS = 16

#: What other services call fields, where the nearest name here would mislead.
_SYNONYMS = {
    "cfg_scale": "guidance_scale",
    "class": "class_label",
    "guidance": "guidance_scale",
    "num_images": "n",
    "num_images_per_prompt": "n",
    "num_inference_steps": "steps",
    "sampler": "solver",
    "scheduler": "solver",
}
#: Most members of all objects of a JSON body, counted by their colons. Each unknown one becomes an error with a text.
MOST_MEMBERS = 4096

#: Largest body in bytes that is parsed on the event loop, which must not block for more than milliseconds.
INLINE_BYTES = 65_536


async def read_request(request: Request, settings: Settings, schema: type[Schema], *, pictures: int = 0) -> Schema:
    """The request in the body of ``request``, which may hold up to ``pictures`` uploads.

    The body is JSON or a form (multipart/form-data), with an empty query; or one picture, or nothing, with the other
    fields in the query. Raises as ``read_body``, ``off_loop`` and ``parse_body``.
    """
    body = await read_body(request, settings, pictures)
    return await off_loop(settings, body, parse_body, schema, request, settings, body)


async def off_loop(settings: Settings, body: bytes, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``work(*args)``: called directly for a small ``body``, else in a bounded thread pool. Raises TooBusy."""
    if len(body) <= INLINE_BYTES:
        return work(*args, **kwargs)
    return await readers_of(settings).run(work, *args, **kwargs)


def parse_body(schema: type[Schema], request: Request, settings: Settings, body: bytes) -> Schema:
    """The request in ``body``, as of ``read_request``. Raises InvalidField, BadRequest, BodyTooLarge."""
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


def near(name: str, known: Iterable[str]) -> str:
    """The end of a message that the field ``name`` is unknown: the one that it probably means, if any."""
    names = {*known}
    found = (
        [_SYNONYMS[name]] if name in _SYNONYMS else get_close_matches(name[:MAX_ECHO], sorted(names), n=1, cutoff=0.7)
    )
    return f" (did you mean {found[0]}?)" if found and found[0] in names else ""


def check_no_query(request: Request) -> None:
    """Raise InvalidField where a request with fields in its body also has fields in the query."""
    if request.scope["query_string"]:
        name = next(iter(request.query_params), "")
        raise InvalidField.of(echoed(name), "is in the query, and the request has a body", "all fields in the body")


def echoed(name: str) -> str:
    """A client's field name, shortened and escaped for a JSON pointer (RFC 6901, section 3)."""
    return name[:MAX_ECHO].replace("~", "~0").replace("/", "~1")


async def read_body(request: Request, settings: Settings, pictures: int = 0) -> bytes:
    """The complete body; its limit grows with the number of uploaded ``pictures``.

    Raises BodyTooLarge as soon as the limit is exceeded, BodyTooSlow when the body is not complete in time, and
    MemoryFull when too much of other bodies has arrived.
    """
    # Base64 needs four bytes for three.
    limit = settings.max_body_bytes + pictures * (settings.max_image_bytes * 4 // 3 + 4)
    info = info_of(request.scope)
    whole, info.body = info.body, None
    body = await _receive(request, settings, limit) if whole is None else bytes(whole)
    if whole is not None:
        whole.clear()  # the protocol would keep it until the response is sent
    if len(body) > limit:
        raise BodyTooLarge(limit)
    return body


def check_json_size(body: bytes, most: int) -> None:
    """Raise BodyTooLarge where JSON has more than ``most`` bytes outside its longest strings, which may be uploads."""
    if len(body) <= most:
        return
    if body.count(b'"') > most:
        raise BodyTooLarge(most)
    strings = sorted(map(len, body.split(b'"')[1::2]))
    if len(body) - sum(strings[-MOST_UPLOADS:]) > most:
        raise BodyTooLarge(most)


def _arriving(settings: Settings) -> Memory:
    """The bytes of all bodies of which a part has arrived: this process's share of the limit."""
    return _memory(settings.max_arriving_bytes // settings.processes)


@lru_cache
def _memory(most: int) -> Memory:
    return Memory(most)


async def _receive(request: Request, settings: Settings, limit: int) -> bytes:
    body = bytearray()
    arriving = _arriving(settings).reserve(0)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise BodyTooLarge(limit)
                # Small bodies are never refused: they are bounded by the number of connections.
                arriving.grow(max(0, len(body) + len(chunk) - INLINE_BYTES))
                body += chunk
    except TimeoutError:
        raise BodyTooSlow(settings.body_timeout_s) from None
    finally:
        arriving.release()
    info_of(request.scope).arrived_at = time.monotonic()  # time that the client took to send is not counted
    return bytes(body)


def parse_json(schema: type[Schema], body: bytes) -> Schema:
    """The request in the JSON ``body``; an empty body is {}.

    Raises BadRequest where it is not JSON or has too many members, InvalidField where it does not match the schema, or
    its text is no Unicode.
    """
    if body.count(b":") > MOST_MEMBERS:
        raise BadRequest(f"The body has more than {MOST_MEMBERS} members or colons.")
    try:
        return schema.model_validate_json(body.strip() or b"{}")
    except ValidationError as failure:
        first = failure.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            _check_surrogates(body, first["ctx"]["error"])
            raise BadRequest(f"The body is not JSON: {first['ctx']['error']}.") from None
        raise _invalid(schema, failure) from None


#: Half of a surrogate pair, escaped: the grammar of JSON allows it (RFC 8259, section 8.2), but it is no character.
_HALF = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def _check_surrogates(body: bytes, error: str) -> None:
    """Raise InvalidField where the parser's ``error`` is half of a surrogate pair."""
    found = _HALF.search(body) if "surrogate" in error or "hex escape" in error else None
    if found is not None:
        says = f"has half of a surrogate pair, {found[0].decode()}, which is not a character"
        raise InvalidField([FieldProblem("#", says)])


def parse_query(schema: type[Schema], request: Request) -> Schema:
    """The request in the query string. Raises InvalidField."""
    return parse_fields(schema, request.query_params.multi_items())


def parse_fields(schema: type[Schema], pairs: Iterable[tuple[str, str | bytes]]) -> Schema:
    """The request in the fields of a query or a form, where numbers are text and files are bytes. Raises InvalidField.

    A repeatable field may occur several times, as a list. Empty optional fields and empty files count as absent:
    browsers send them for form fields that were not filled in.
    """
    values: dict[str, list[str | bytes]] = {}
    for name, value in pairs:
        if not value and _may_be_blank(schema, name, value):
            continue
        if name in values and name not in _repeatable(schema):
            raise InvalidField.of(echoed(name), "occurs more than once")
        values.setdefault(name, []).append(value)
    try:
        # Not strict: numbers are text in queries and forms.
        return schema.model_validate({name: _value(schema, name, all_) for name, all_ in values.items()}, strict=False)
    except ValidationError as failure:
        raise _invalid(schema, failure) from None


def _may_be_blank(schema: type[BaseModel], name: str, value: str | bytes) -> bool:
    """Whether an empty value of ``name`` counts as absent. Unknown names do not: they are rejected."""
    field = _fields(schema).get(name)
    return field is not None and (isinstance(value, bytes) or not field.is_required())


def _value(schema: type[BaseModel], name: str, given: list[str | bytes]) -> object:
    """The value of a field: a list where it occurs several times, or where only a list is valid."""
    only_list = name in _repeatable(schema) and _is_list(_fields(schema)[name].annotation)
    return given if only_list or len(given) > 1 else given[0]


def _is_list(annotation: object) -> bool:
    """Whether the values of a field are lists, or absent."""
    if get_origin(annotation) is Annotated:
        return _is_list(get_args(annotation)[0])
    kinds = [each for each in get_args(annotation) if each is not type(None)]
    return get_origin(annotation) is list or (
        get_origin(annotation) in (Union, UnionType) and all(map(_is_list, kinds))
    )


def _repeatable(schema: type[BaseModel]) -> frozenset[str]:
    return schema.repeatable if issubclass(schema, Showing) else frozenset()


#: Messages for pydantic errors whose own text uses Python's terms.
_MESSAGES = {
    "extra_forbidden": "there is no such field",
    "bytes_type": "must be a picture: base64, or a file of a form",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


def _invalid(schema: type[BaseModel], failure: ValidationError) -> InvalidField:
    problems: dict[str, FieldProblem] = {}
    listed: set[type[BaseModel]] = set()
    for error in failure.errors(include_url=False, include_context=False, include_input=False):
        pointer, owner = _place(schema, error["loc"])
        unknown = error["type"] == "extra_forbidden"
        message = _MESSAGES.get(error["type"], error["msg"].removeprefix("Value error, "))
        message = message[:1].lower() + message[1:]
        if pointer in problems:  # a union fails once for each of its members
            if message in problems[pointer].message:
                continue
            message = f"{problems[pointer].message}, or {message}"
        elif len(problems) == MAX_PROBLEMS:
            break
        if unknown:
            message += near(str(error["loc"][-1]), _fields(owner))
        allowed = ", ".join(sorted(_fields(owner))) if unknown and owner not in listed else None
        listed |= {owner} if unknown else set()
        problems[pointer] = FieldProblem(pointer, message, allowed)
    return InvalidField(list(problems.values()))


def _place(schema: type[BaseModel], location: Sequence[int | str]) -> tuple[str, type[BaseModel]]:
    """The JSON pointer of pydantic's ``location``, without its union members, and the schema that holds the field."""
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
    """The schema of the object, or the list of objects, that a field holds; None where it holds none, or also text."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if any(get_origin(each) is Annotated for each in get_args(annotation)):
        return None
    return next((found for each in get_args(annotation) if (found := _schema_in(each)) is not None), None)


@lru_cache
def _fields(schema: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """The fields by their names in requests."""
    return {field.alias or name: field for name, field in schema.model_fields.items()}
