"""The part of the OpenAPI document that FastAPI cannot make: that of the plain ASGI routes."""

from collections.abc import Callable, Mapping, Sequence
from inspect import cleandoc
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from service.api.http.problem import Problem
from service.api.request.negotiation import EVENT_STREAM, JSON, PICTURES
from service.api.request.uploads import PICTURE_FIELD, UPLOADS
from service.api.response.schemas import JobStatus, PicturesAnswer

PROBLEM_JSON = "application/problem+json"
_REFUSALS = {
    400: "The body is not JSON, or a form or picture in it cannot be read.",
    404: "No such model, or not in that version, and the answer names those there are; or no such job any more.",
    406: "None of the formats in Accept is offered.",
    408: "The body did not arrive in time.",
    409: "The request with this Idempotency-Key is being answered; or the job has no result yet.",
    410: "The job was canceled.",
    413: "The body, or a picture in it, is too large.",
    415: "An uploaded picture is in no format that is read.",
    422: "A field is unknown, out of range, or means nothing to this model; or the Idempotency-Key is another's.",
    429: "The client's accepted work fills its share of the queue; Retry-After says when to come back.",
    500: "The model gave no usable picture.",
    503: "The queue is full, or too long for an answer in time (Retry-After says when to come back); or the model was "
    "refused, or the service is stopping.",
    504: "The pictures were not ready in time: timeout_ms, or the service's own limit. Their work was dropped.",
}


def operation(
    handler: Callable[..., object],
    formats: Sequence[str],
    *,
    path: Sequence[str] = (),
    query: type[BaseModel] | None = None,
    body: type[BaseModel] | None = None,
) -> dict[str, Any]:
    """The operation of ``handler``, described by its docstring: what it reads, and what it answers in ``formats``."""
    return {
        **described(handler),
        "parameters": [
            *path_parameters(*path),
            *(query_parameters(query) if query else []),
            *_header_parameters(post=bool(body)),
        ],
        "responses": _picture_responses(formats, conditional=query is not None),
        **({"requestBody": request_body(body)} if body else {}),
    }


def described(handler: Callable[..., object], tag: str = "pictures") -> dict[str, Any]:
    """What the name and the docstring of ``handler`` say of its operation."""
    return {
        "tags": [tag],
        "operationId": handler.__name__,
        "summary": handler.__name__.replace("_", " ").capitalize(),
        "description": cleandoc(handler.__doc__ or ""),
    }


def path_parameters(*names: str) -> list[dict[str, Any]]:
    """Parts of a path."""
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def success(text: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A 200 that is one of ``content``, schemas by media type."""
    return {"200": {"description": text, "content": {media: {"schema": schema} for media, schema in content.items()}}}


def refusals(*statuses: int) -> dict[str, Any]:
    """The errors of those statuses."""
    return {
        str(status): {
            "description": _REFUSALS[status],
            "content": {PROBLEM_JSON: {"schema": inlined(Problem.model_json_schema())}},
        }
        for status in statuses
    }


def describe(app: FastAPI, operations: Mapping[str, Mapping[str, Any]]) -> None:
    """Add ``operations``, by path and method, to the document that ``app`` makes of its own routes."""
    own = app.openapi

    def openapi() -> dict[str, Any]:
        document = own()
        document["paths"] = {**operations, **document["paths"]}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def request_body(schema: type[BaseModel]) -> dict[str, Any]:
    """A body of ``schema``, optional where all of its fields are: JSON, or what else can hold the fields it has."""
    document = _document(schema)
    content: dict[str, Any] = {JSON: {"schema": document}}
    if PICTURE_FIELD in document["properties"]:
        content |= {
            "multipart/form-data": {"schema": _in_a_form(document)},
            **{media: {"schema": {"type": "string", "format": "binary"}} for media in UPLOADS},
        }
    return {"required": "required" in document, "content": content}


def _document(schema: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of ``schema``, its own fields before those that it shares with others."""
    document = inlined(schema.model_json_schema())
    own = {field.alias or name for name, field in schema.model_fields.items() if name in schema.__annotations__}
    document["properties"] = dict(sorted(document["properties"].items(), key=lambda field: field[0] not in own))
    return document


def _in_a_form(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` without objects and null, which only JSON can say; an optional field may be empty instead."""
    fields = {
        name: _without_null(field) for name, field in document["properties"].items() if not _holds_an_object(field)
    }
    required = document.get("required", ())
    properties = {name: field if name in required else _or_empty(field) for name, field in fields.items()}
    return {**document, "properties": properties}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" not in field:
        return field
    return {**field, "anyOf": [form for form in field["anyOf"] if form.get("type") != "null"]}


def _or_empty(field: dict[str, Any]) -> dict[str, Any]:
    return {"description": field.get("description", ""), "anyOf": [field, {"const": ""}]}


def _holds_an_object(field: dict[str, Any]) -> bool:
    return "object" in {form.get("type") for form in field.get("anyOf", ())}


def query_parameters(schema: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of ``schema``, but those that are objects: a query cannot hold them."""
    fields = _document(schema)["properties"]
    return [
        {"name": name, "in": "query", "required": False, "allowEmptyValue": True, "schema": field}
        for name, field in fields.items()
        if not _holds_an_object(field)
    ]


def _picture_responses(formats: Sequence[str], *, conditional: bool) -> dict[str, dict[str, Any]]:
    """A success in each of ``formats`` and every refusal."""
    kept = {"304": {"description": "What If-None-Match names is what would be answered."}} if conditional else {}
    return {
        "200": {
            "description": "The pictures, or events.",
            "content": picture_content(formats) | {EVENT_STREAM: {"schema": EVENT}},
        },
        "202": {
            "description": "A job, whose address is in Location: what Prefer asks for.",
            "content": {JSON: {"schema": inlined(JobStatus.model_json_schema())}},
        },
        **kept,
        **refusals(*(status for status in _REFUSALS if status != 410)),
    }


def picture_content(formats: Sequence[str] = PICTURES) -> dict[str, Any]:
    """Pictures, in each of ``formats``."""
    binary = {media: {"schema": {"type": "string", "format": "binary"}} for media in formats if media != JSON}
    return inlined({JSON: {"schema": PicturesAnswer.model_json_schema()}, **binary})


#: One of the events of a stream.
EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": JSON},
    },
}


def _header_parameters(*, post: bool) -> list[dict[str, Any]]:
    """The headers by which a request chooses how it is answered."""
    headers = {"Prefer": "respond-async: 202, and a job. wait=10: 202 where it is not done in ten seconds."}
    if post:
        headers["Idempotency-Key"] = "A name for the request: sent again with it, it is answered as before."
    schema = {"type": "string"}
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name, text in headers.items()
    ]


def inlined(document: dict[str, Any]) -> dict[str, Any]:
    """``document``, which has JSON schemas, with their $defs put where they are used.

    It is moved to where their addresses mean nothing.
    """
    definitions: dict[str, Any] = {}

    def collect(node: Any) -> None:  # noqa: ANN401  (any JSON value)
        if isinstance(node, dict):
            definitions.update(node.pop("$defs", {}))
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    def resolved(node: Any) -> Any:  # noqa: ANN401
        if isinstance(node, dict):
            if "$ref" in node:
                beside = {key: value for key, value in node.items() if key != "$ref"}
                return resolved(definitions[node["$ref"].rsplit("/", 1)[1]]) | resolved(beside)
            return {key: resolved(value) for key, value in node.items()}
        return [resolved(value) for value in node] if isinstance(node, list) else node

    collect(document)
    inlined = resolved(document)
    assert isinstance(inlined, dict)
    return inlined
