"""The part of the OpenAPI document that FastAPI cannot make: that of the plain ASGI routes."""

from collections.abc import Callable, Mapping, Sequence
from inspect import cleandoc
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from service.api.negotiation import JSON
from service.api.schemas import PicturesAnswer, Problem

PROBLEM_JSON = "application/problem+json"
_REFUSALS = {
    400: "The body is not JSON.",
    404: "No such model; the answer names those there are.",
    406: "None of the formats in Accept is offered.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "A field is unknown, out of range, or means nothing to this model.",
    429: "The client's accepted work fills its share of the queue; Retry-After says when to come back.",
    500: "The model gave no usable picture.",
    503: "The queue is full, or too long for an answer in time (Retry-After says when to come back); or the model was "
    "refused at start, or the service is stopping.",
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
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    described: dict[str, Any] = {
        "tags": ["pictures"],
        "operationId": handler.__name__,
        "summary": handler.__name__.replace("_", " ").capitalize(),
        "description": cleandoc(handler.__doc__ or ""),
        "parameters": [*parameters, *(_query_parameters(query) if query else [])],
        "responses": _picture_responses(formats),
    }
    return described | ({"requestBody": _request_body(body)} if body else {})


def describe(app: FastAPI, operations: Mapping[str, Mapping[str, Any]]) -> None:
    """Add ``operations``, by path and method, to the document that ``app`` makes of its own routes."""
    own = app.openapi

    def openapi() -> dict[str, Any]:
        document = own()
        document["paths"] = {**operations, **document["paths"]}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _request_body(schema: type[BaseModel]) -> dict[str, Any]:
    """A JSON body of ``schema``, optional where all of its fields are."""
    document = _inlined(schema.model_json_schema())
    return {"required": "required" in document, "content": {JSON: {"schema": document}}}


def _query_parameters(schema: type[BaseModel]) -> list[dict[str, Any]]:
    fields = _inlined(schema.model_json_schema())["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": field} for name, field in fields.items()]


def _picture_responses(formats: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A success in each of ``formats`` and every refusal."""
    binary = {media: {"schema": {"type": "string", "format": "binary"}} for media in formats if media != JSON}
    success = {JSON: {"schema": PicturesAnswer.model_json_schema()}, **binary}
    refusals = {
        str(status): {"description": text, "content": {PROBLEM_JSON: {"schema": Problem.model_json_schema()}}}
        for status, text in _REFUSALS.items()
    }
    return {"200": {"description": "The pictures.", "content": _inlined(success)}, **refusals}


def _inlined(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` with local $defs put where they are used: it is moved to where their addresses mean nothing."""
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
                return resolved(definitions[node["$ref"].rsplit("/", 1)[1]])
            return {key: resolved(value) for key, value in node.items()}
        return [resolved(value) for value in node] if isinstance(node, list) else node

    collect(document)
    inlined = resolved(document)
    assert isinstance(inlined, dict)
    return inlined
