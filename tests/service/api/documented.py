"""Compares responses with the OpenAPI document: what is sent and not documented."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from service.api.http.access import SECURITY

Document = dict[str, Any]

#: Headers of every answer, and of every answer to an API key or a page of another origin: docs/API.md has them once.
EVERYWHERE = {name.decode() for name, _ in SECURITY} | {"ratelimit", "ratelimit-policy"}
EVERYWHERE |= {"access-control-allow-origin", "access-control-expose-headers"}
#: Headers of the transport, which OpenAPI documents elsewhere or not at all.
TRANSPORT = {"content-type", "content-length", "date", "server", "transfer-encoding", "connection"}


def resolved(document: Document, node: Document) -> Document:
    """``node``, or what it refers to."""
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def undocumented(document: Document, response: httpx2.Response) -> list[str]:
    """The status, headers, media type and fields of ``response`` that ``document`` does not have."""
    operation = operation_of(document, response.request.method, response.request.url.path)
    if operation is None:
        return []
    status = str(response.status_code)
    if status not in operation["responses"]:
        return [f"status {status}"]
    described = resolved(document, operation["responses"][status])
    known = {name.lower() for name in described.get("headers", {})} | TRANSPORT | EVERYWHERE
    found = [f"{status}: header {name}" for name in response.headers if name not in known]
    media = response.headers.get("content-type", "").partition(";")[0]
    content = described.get("content", {})
    if media and media not in content:
        found.append(f"{status}: media type {media}")
    elif media.endswith("json") and response.content:
        body = json.loads(response.content)
        found += [f"{status}: field {field}" for field in unknown_fields(document, content[media]["schema"], body)]
    return found


def operation_of(document: Document, method: str, path: str) -> Document | None:
    """The operation that answers; None where the document has none, as of /docs or of a method that is not allowed."""
    method = "get" if method == "HEAD" else method.lower()
    paths = sorted(document["paths"], key=lambda template: template.count("{"))
    for template in paths:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            operation: Document | None = document["paths"][template].get(method)
            return operation
    return None


def unknown_fields(document: Document, schema: Document, value: object, at: str = "") -> list[str]:
    """The fields of a JSON ``value`` that ``schema`` does not name."""
    schema = resolved(document, schema)
    if "anyOf" in schema:
        return min((unknown_fields(document, form, value, at) for form in schema["anyOf"]), key=len)
    if isinstance(value, list):
        forms = schema.get("prefixItems", [])
        rest = [schema.get("items", {})] * (len(value) - len(forms))
        pairs = zip(value, [*forms, *rest], strict=False)
        return [name for each, form in pairs for name in unknown_fields(document, form, each, f"{at}/*")]
    if isinstance(value, dict) and "properties" in schema:
        return [name for key, each in value.items() for name in _of_property(document, schema, key, each, at)]
    return []


def _of_property(document: Document, schema: Document, key: str, value: object, at: str) -> Iterator[str]:
    form = schema["properties"].get(key, schema.get("additionalProperties", False))
    if form is False:
        yield f"{at}/{key}"
    elif isinstance(form, dict):
        yield from unknown_fields(document, form, value, f"{at}/{key}")


def checker(document: Document) -> Callable[[httpx2.Response], None]:
    """A hook for a client, by which every test of the API also tests the document."""

    def check(response: httpx2.Response) -> None:
        response.read()
        found = undocumented(document, response)
        assert found == [], f"{response.request.method} {response.request.url}: not in the OpenAPI document"

    return check
