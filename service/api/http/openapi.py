"""What each plain ASGI route declares of itself, and the OpenAPI document that is made of the declarations."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import cleandoc
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from service.api.http.problem import PROBLEM_JSON, Problem
from service.api.request.negotiation import JSON
from service.api.request.uploads import PICTURE_FIELD, UPLOADS

Handler = Callable[[Request], Awaitable[Response]]
JsonSchema = dict[str, Any]

#: The content of a body: by media type, a model, or a JSON schema.
Content = Mapping[str, type[BaseModel] | JsonSchema]

BINARY: JsonSchema = {"type": "string", "format": "binary"}

#: Headers of responses, by name.
HEADERS = {
    "X-Request-Id": "Id of the request: the client's own X-Request-Id, or a new one.",
    "X-Model": "Name of the model.",
    "X-Model-Version": "Version of the model.",
    "X-Seed": "Seed of each image that has one, separated by commas.",
    "Server-Timing": "Milliseconds in the queue, of computing, and of encoding.",
    "Content-Disposition": "Suggested file name.",
    "Vary": "Request headers that the response depends on.",
    "Cache-Control": "Whether and for how long the response may be cached.",
    "ETag": "Identifies what the response shows; send it back in If-None-Match.",
    "Location": "URL of the job.",
    "Preference-Applied": "Which part of Prefer was applied.",
    "Retry-After": "Seconds after which to try again.",
    "WWW-Authenticate": "How to authenticate (RFC 6750).",
    "Idempotent-Replayed": "true: the kept response to an earlier request with this Idempotency-Key.",
    "X-Accel-Buffering": "no: tells nginx not to buffer events.",
    "Inference-Header-Content-Length": "Length of the JSON in bytes; binary tensors follow it.",
}

#: Headers of requests, by name.
PARAMETERS = {
    "Prefer": "respond-async: answer 202 with a job. wait=10: answer 202 if the result is not ready in ten seconds.",
    "Idempotency-Key": "Name of the request: sent again with the same key, it gets the same answer, computed once.",
    "If-None-Match": "ETag of a cached response: answered with 304 if that is still current.",
    "Last-Event-ID": "Id of the last event received: only later events are sent.",
    "Inference-Header-Content-Length": "Length of the JSON in bytes, where binary tensors follow it.",
}

_ERRORS = {
    400: "The body is not valid JSON, or a form or image in it cannot be read; or a header is malformed.",
    401: "The service has API keys, and the request has none, or one that is not valid.",
    403: "The API key does not permit this; or a web page of another site sent the request.",
    404: "No such model, or not in that version (the answer names those that exist); or no such job any more.",
    406: "None of the formats in Accept is offered.",
    408: "The body did not arrive in time.",
    409: "A request with this Idempotency-Key is still running; or the job has no result yet.",
    410: "The job was canceled.",
    413: "The body, or an image in it, is too large.",
    415: "An uploaded image has a format that is not supported.",
    421: "Host names no host of this service.",
    422: "A field is unknown, out of range, or not supported by this model; or the request alone exceeds the device "
    "time that one may take; or the Idempotency-Key belongs to another request.",
    429: "The client's accepted work fills its share of the queue, or it has too many jobs or event streams; or its "
    "API key has used its device time.",
    500: "The model produced no usable image, or the service failed.",
    503: "The queue, the memory for waiting requests, or the job store is full; or the deadline cannot be met; or the "
    "model is unavailable; or the service is overloaded or stopping.",
    504: "The images were not ready before the deadline (timeout_ms, or the service's limit). The work was dropped.",
}
_RETRY = frozenset({409, 429, 503})
#: Any route may need an API key and the right Host, any may fail, and any is refused when the event loop is overloaded.
_CHALLENGED = frozenset({401, 403})
_GUARDED = (401, 403, 421)
_ALWAYS = (*_GUARDED, 500, 503)

#: The ways to present an API key, to a service that has keys.
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "password": {"type": "http", "scheme": "basic", "description": "The password is the key; any user."},
}

ERROR_HEADERS = ("X-Request-Id", "X-Model", "X-Model-Version", "Cache-Control", "Vary")


class Answer(NamedTuple):
    """A response that is no error: what it is, its content by media type, and its headers beside X-Request-Id."""

    text: str
    content: Content = MappingProxyType({})
    headers: Sequence[str] = ()


class Errors(NamedTuple):
    """The form of errors: its name in the document, and the content."""

    name: str
    content: Content


PROBLEMS = Errors("Problem", {PROBLEM_JSON: Problem})


@dataclass(frozen=True)
class Operation:
    """A handler and everything that the OpenAPI document says of it beside its docstring.

    ``body`` is the model of the request's body; of several, a body is one of them. ``query`` is the model of the query.
    ``headers`` are names in ``PARAMETERS``, ``errors`` statuses (500 and 503 need no mention), of the form ``failing``.
    """

    handler: Handler
    tag: str = "images"
    answers: Mapping[int, Answer] = field(default_factory=dict)
    errors: Sequence[int] = ()
    failing: Errors = PROBLEMS
    body: Sequence[type[BaseModel]] = ()
    query: type[BaseModel] | None = None
    headers: Sequence[str] = ()
    example: Mapping[str, Any] | None = None
    binary_body: bool = False


#: By path and method.
Operations = Mapping[str, Mapping[str, Operation]]


def add_operations(document: dict[str, Any], operations: Operations, tags: Sequence[str]) -> None:
    """Add ``operations`` to an OpenAPI ``document``, with the paths in the order of their ``tags``."""
    schemas = _Schemas(operations)
    paths = document["paths"]
    for path, methods in operations.items():
        item = {method.lower(): _operation(path, each, schemas) for method, each in methods.items()}
        paths[path] = {**paths.get(path, {}), **item}
    rank = {tag: index for index, tag in enumerate(tags)}
    document["paths"] = dict(sorted(paths.items(), key=lambda item: rank[next(iter(item[1].values()))["tags"][0]]))
    components = document.setdefault("components", {})
    components["schemas"] = dict(sorted({**components.get("schemas", {}), **schemas.definitions}.items()))
    components["headers"] = {name: _described(text) for name, text in HEADERS.items()}
    components["responses"] = {
        f"{failing.name}{status}": response
        for failing in {each.failing.name: each.failing for each in schemas.operations}.values()
        for status, response in _errors(_ERRORS, schemas.content(failing.content)).items()
    }
    components["securitySchemes"] = _SCHEMES
    document["security"] = [{}, *({name: []} for name in _SCHEMES)]
    components["parameters"] = {
        name: {"name": name, "in": "header", "required": False, **_described(text)} for name, text in PARAMETERS.items()
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Error responses with those statuses, for FastAPI's own routes."""
    return _errors((*_GUARDED, *statuses), {PROBLEM_JSON: {"$ref": f"#/components/schemas/{Problem.__name__}"}})


def _errors(statuses: Iterable[int], content: Mapping[str, JsonSchema]) -> dict[int | str, dict[str, Any]]:
    return {
        status: {
            "description": _ERRORS[status],
            "headers": response_headers(
                *ERROR_HEADERS,
                *(["Retry-After"] if status in _RETRY else []),
                *(["WWW-Authenticate"] if status in _CHALLENGED else []),
            ),
            "content": _media(content),
        }
        for status in statuses
    }


def response_headers(*names: str) -> dict[str, Any]:
    """References to headers of ``HEADERS``."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def query_parameters(schema: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of ``schema``, but those that are objects: a query cannot hold them."""
    fields = _own_first(schema, inlined(schema.model_json_schema()))["properties"]
    return [
        {"name": name, "in": "query", "required": False, "allowEmptyValue": True, "schema": _without(field, "object")}
        for name, field in fields.items()
        if not _holds_an_object(field)
    ]


class _Schemas:
    """The schemas of all models of some operations: ``definitions``, by the names that references use."""

    def __init__(self, operations: Operations) -> None:
        self.operations = [each for methods in operations.values() for each in methods.values()]
        bodies = dict.fromkeys(model for each in self.operations for model in each.body)
        answers = dict.fromkeys(model for each in self.operations for model in _models_of(each))
        modes: list[Any] = [(model, "validation") for model in bodies]
        modes += [(model, "serialization") for model in answers]
        self._references, document = models_json_schema(modes, ref_template="#/components/schemas/{model}")
        self.definitions: dict[str, Any] = document.get("$defs", {})
        for model in bodies:
            name = self._name(model, "validation")
            self.definitions[name] = _own_first(model, self.definitions[name])
            if PICTURE_FIELD in self.definitions[name]["properties"]:
                self.definitions[f"{name}Form"] = _in_a_form(_own_first(model, inlined(model.model_json_schema())))

    def body(self, model: type[BaseModel]) -> JsonSchema:
        """A reference to the schema of a request."""
        return {"$ref": f"#/components/schemas/{self._name(model, 'validation')}"}

    def form(self, model: type[BaseModel]) -> JsonSchema | None:
        """A reference to the schema of the same request as a form, if it may be one."""
        name = f"{self._name(model, 'validation')}Form"
        return {"$ref": f"#/components/schemas/{name}"} if name in self.definitions else None

    def content(self, content: Content) -> dict[str, JsonSchema]:
        """The schema of each media type."""
        return {
            media: schema if isinstance(schema, dict) else dict(self._references[schema, "serialization"])
            for media, schema in content.items()
        }

    def _name(self, model: type[BaseModel], mode: Any) -> str:  # noqa: ANN401  (pydantic's literal)
        reference: str = self._references[model, mode]["$ref"]
        return reference.rsplit("/", 1)[1]


def _models_of(operation: Operation) -> Iterator[type[BaseModel]]:
    for content in (*(answer.content for answer in operation.answers.values()), operation.failing.content):
        yield from (schema for schema in content.values() if not isinstance(schema, dict))


def _operation(path: str, operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    handler = operation.handler
    parameters = [
        *(_path_parameter(name) for name in names),
        *(query_parameters(operation.query) if operation.query else []),
        *({"$ref": f"#/components/parameters/{name}"} for name in operation.headers),
    ]
    return {
        "tags": [operation.tag],
        "operationId": handler.__name__ + ("_of_version" if "version" in names else ""),
        "summary": handler.__name__.replace("_", " ").capitalize(),
        "description": cleandoc(handler.__doc__ or ""),
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": _request_body(operation, schemas)} if operation.body else {}),
        "responses": _responses(operation, schemas),
    }


def _path_parameter(name: str) -> dict[str, Any]:
    example = {"example": "ddpm"} if name == "model" else {}
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, **example}


def _responses(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    answers: dict[int, Any] = {
        status: {
            "description": answer.text,
            "headers": response_headers("X-Request-Id", *answer.headers),
            **({"content": _media(schemas.content(answer.content))} if answer.content else {}),
        }
        for status, answer in operation.answers.items()
    }
    statuses = (*operation.errors, *_ALWAYS)
    failed = {each: {"$ref": f"#/components/responses/{operation.failing.name}{each}"} for each in statuses}
    responses: dict[int, Any] = {**failed, **answers}
    return {str(status): responses[status] for status in sorted(responses)}


def _media(content: Mapping[str, JsonSchema]) -> dict[str, Any]:
    return {media: {"schema": schema} for media, schema in content.items()}


def _request_body(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    """A body, optional where all of its fields are: JSON, or what else can hold the fields it has."""
    first, *others = operation.body
    one = schemas.body(first)
    of_json: dict[str, Any] = {"schema": {"anyOf": [one, *map(schemas.body, others)]} if others else one}
    if operation.example is not None:
        of_json["example"] = operation.example
    content = {JSON: of_json}
    if form := schemas.form(first):
        content |= {"multipart/form-data": {"schema": form}, **{media: {"schema": BINARY} for media in UPLOADS}}
    if operation.binary_body:
        content["application/octet-stream"] = {"schema": BINARY}
    required = any(each.is_required() for each in first.model_fields.values())
    return {"required": required, "content": content}


def _described(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}


def _own_first(model: type[BaseModel], schema: JsonSchema) -> JsonSchema:
    """``schema`` of ``model``, its own fields before those that it shares with others."""
    own = {field.alias or name for name, field in model.model_fields.items() if name in model.__annotations__}
    return {**schema, "properties": dict(sorted(schema["properties"].items(), key=lambda item: item[0] not in own))}


def _in_a_form(document: JsonSchema) -> JsonSchema:
    """``document`` without objects and null, which only JSON can express; an optional field may be empty instead."""
    fields = {
        name: _without(field, "null", "object")
        for name, field in document["properties"].items()
        if not _holds_an_object(field)
    }
    required = document.get("required", ())
    properties = {name: field if name in required else _or_empty(field) for name, field in fields.items()}
    return {**document, "properties": properties}


def _without(field: JsonSchema, *types: str) -> JsonSchema:
    """``field`` without the forms of these types, its own and those of a list."""
    if "items" in field:
        return {**field, "items": _without(field["items"], *types)}
    if "anyOf" not in field:
        return field
    return {**field, "anyOf": [_without(form, *types) for form in field["anyOf"] if form.get("type") not in types]}


def _or_empty(field: JsonSchema) -> JsonSchema:
    return {"description": field.get("description", ""), "anyOf": [field, {"const": ""}]}


def _holds_an_object(field: JsonSchema) -> bool:
    return {form.get("type") for form in field.get("anyOf", ())} in ({"object"}, {"object", "null"})


def inlined(document: JsonSchema) -> JsonSchema:
    """A JSON schema with its $defs put where they are used, for forms and queries, which change the fields."""
    definitions = document.get("$defs", {})

    def resolved(node: Any) -> Any:  # noqa: ANN401  (any JSON value)
        if isinstance(node, dict):
            if "$ref" in node:
                beside = {key: value for key, value in node.items() if key != "$ref"}
                return resolved(definitions[node["$ref"].rsplit("/", 1)[1]]) | resolved(beside)
            return {key: resolved(value) for key, value in node.items() if key != "$defs"}
        return [resolved(value) for value in node] if isinstance(node, list) else node

    found: JsonSchema = resolved(document)
    return found
