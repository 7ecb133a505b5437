import re
from typing import Any

import pytest

from scripts.api_docs import DOCUMENT, allowed, openapi, rewritten
from tests.documents import Curl, blocks_of, curls_of

INTEGER = {"type": "integer"}


@pytest.fixture(scope="module")
def document() -> Any:
    return openapi()


def test_the_document_is_what_the_code_says(document: Any) -> None:
    text = DOCUMENT.read_text()
    assert rewritten(text, document) == text, "run python -m scripts.api_docs"


def test_every_operation_has_a_curl(document: Any) -> None:
    # That of a version of a model is the one without it.
    asked = {curl for block in blocks_of(DOCUMENT) for curl in curls_of(block)}
    missing = [
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
        if not any(matches(curl, method.upper(), path.replace("/versions/{version}", "")) for curl in asked)
    ]
    assert missing == []


def matches(curl: Curl, method: str, path: str) -> bool:
    return curl.method == method and bool(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), curl.path))


def test_a_part_is_replaced_and_the_rest_stays() -> None:
    field = {"type": "integer", "minimum": 2, "default": 3, "description": "How | many."}
    body = {"content": {"application/json": {"schema": {"properties": {"n": field, "scale": field}}}}}
    other = {"content": {"application/json": {"schema": {"properties": {"scale": field}}}}}
    paths = {"/a": {"post": {"requestBody": body}}, "/b": {"post": {"requestBody": other}}}
    text = "before\n<!-- fields of POST /a, else as POST /b -->\nstale\n<!-- end -->\nafter\n"
    assert rewritten(text, {"paths": paths}).splitlines() == [
        "before",
        "<!-- fields of POST /a, else as POST /b -->",
        "",
        "| field | allowed | default | meaning |",
        "| --- | --- | --- | --- |",
        "| `n` | a whole number from 2 | `3` | How \\| many. |",
        "",
        "As in `POST /b`: `scale`.",
        "",
        "<!-- end -->",
        "after",
    ]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 0, "exclusiveMaximum": 2**32}, "0 to 2^32 - 1"),
        ({"type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0}, "above 0 to 1"),
        ({"type": "number"}, "a number"),
        ({"enum": ["png", "gif"]}, "`png`, `gif`"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "`true`, `false`"),
        (
            {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
            "a whole number or a list of them",
        ),
        ({"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}}, "a list of 2, each a number"),
        ({"type": "array", "minItems": 2, "maxItems": 8, "items": {"type": "string"}}, "a list of 2 to 8, each a text"),
        ({"type": "object", "properties": {"seed": {}}}, "an object of `seed`"),
        ({"type": "object", "maxProperties": 16}, "an object of texts, up to 16"),
        ({}, "any JSON"),
    ],
)
def test_what_a_value_may_be_is_told_in_words(schema: dict[str, Any], words: str) -> None:
    assert allowed(schema) == words
