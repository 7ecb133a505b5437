from collections.abc import Mapping
from typing import Any

import pytest
from starlette.requests import Request

from service.api.request.response_mode import Way, wait_of, way_of
from service.api.request.schemas import GenerateRequest
from service.errors import BadRequest, InvalidField, NotAcceptable

PNG, JSON, GIF = "image/png", "application/json", "image/gif"


def request(headers: Mapping[str, str], method: str = "POST") -> Request:
    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "headers": lines})


def way(headers: Mapping[str, str], method: str = "POST", **fields: Any) -> Way:
    return way_of(request(headers, method), GenerateRequest.model_validate(fields))


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        ({}, {}, Way(PNG)),
        ({"Accept": "image/gif"}, {}, Way(GIF)),
        ({"Accept": "text/event-stream"}, {"format": "gif"}, Way(GIF)),
        ({"Accept": "text/event-stream"}, {}, Way(JSON, live=True)),
        ({"Accept": "text/event-stream;q=0.1, image/gif"}, {}, Way(GIF)),
        ({"Accept": "text/*"}, {}, Way(JSON, live=True)),
        ({"Accept": "application/json"}, {"stream": True}, Way(JSON, live=True)),
        ({}, {"stream": True, "format": "json"}, Way(JSON, live=True)),
        ({"Prefer": "respond-async"}, {}, Way(PNG, wait_s=0.0)),
        ({"Prefer": "respond-async"}, {"stream": True}, Way(JSON, live=True, wait_s=0.0)),
        ({"Prefer": "wait=10", "Accept": "image/gif"}, {}, Way(GIF, wait_s=10.0)),
        ({"Prefer": "return=minimal"}, {}, Way(PNG)),
        ({"Idempotency-Key": "a-1"}, {}, Way(PNG, key="a-1")),
        ({"Idempotency-Key": "a", "Prefer": "respond-async"}, {}, Way(PNG, wait_s=0.0, key="a")),
        ({"Prefer": "wait=1"}, {"preview_every": 5}, Way(PNG, wait_s=1.0)),
    ],
)
def test_how_a_request_is_answered(headers: dict[str, str], fields: dict[str, Any], expected: Way) -> None:
    chosen = way(headers, **fields)
    assert chosen == expected
    assert chosen.plain == (expected == Way(expected.media))


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        ("respond-async", 0.0),
        ("respond-async, wait=10", 10.0),
        ("wait=10, respond-async", 10.0),
        (' Wait = "5" ; foo=bar', 5.0),
        ("wait=0", 0.0),
        ("wait=1, wait=2", 1.0),
        ("wait", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=1e3", None),
        ("wait=9999999", None),
        ("handling=strict", None),
        ("", None),
        (",;=", None),
    ],
)
def test_what_prefer_says(prefer: str, wait_s: float | None) -> None:
    assert wait_of(request({"Prefer": prefer})) == wait_s


def test_a_get_has_no_key() -> None:
    assert way({"Idempotency-Key": "a"}, method="GET") == Way(PNG)


@pytest.mark.parametrize(
    ("headers", "fields", "pointer"),
    [
        ({}, {"stream": True, "format": "png"}, "#/format"),
        ({}, {"preview_every": 1}, "#/preview_every"),
        ({"Idempotency-Key": "a"}, {"preview_every": 1}, "#/preview_every"),
    ],
)
def test_a_field_that_would_do_nothing(headers: dict[str, str], fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        way(headers, **fields)
    assert [problem.pointer for problem in refusal.value.problems] == [pointer]


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "é", "x" * 256])
def test_a_key_that_is_none(key: str) -> None:
    with pytest.raises(BadRequest, match="1 to 255"):
        way({"Idempotency-Key": key})


def test_a_stream_has_no_key_and_takes_a_format_that_is_offered() -> None:
    with pytest.raises(BadRequest, match="respond-async"):
        way({"Idempotency-Key": "a"}, stream=True)
    with pytest.raises(NotAcceptable, match="text/event-stream"):
        way({"Accept": "text/plain"})
