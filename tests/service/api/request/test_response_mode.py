from collections.abc import Mapping
from typing import Any

import pytest
from starlette.requests import Request

from service.api.request.response_mode import ResponseMode, response_mode_of, wait_of
from service.api.request.schemas import GenerateRequest
from service.errors import BadRequest, InvalidField, NotAcceptable

PNG, JSON, GIF = "image/png", "application/json", "image/gif"


def request(headers: Mapping[str, str], method: str = "POST") -> Request:
    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "headers": lines})


def mode_of(headers: Mapping[str, str], method: str = "POST", **fields: Any) -> ResponseMode:
    return response_mode_of(request(headers, method), GenerateRequest.model_validate(fields))


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        ({}, {}, ResponseMode(PNG)),
        ({"Accept": "image/gif"}, {}, ResponseMode(GIF)),
        ({"Accept": "text/event-stream"}, {"format": "gif"}, ResponseMode(GIF)),
        ({"Accept": "text/event-stream"}, {}, ResponseMode(JSON, live=True)),
        ({"Accept": "text/event-stream;q=0.1, image/gif"}, {}, ResponseMode(GIF)),
        ({"Accept": "text/*"}, {}, ResponseMode(JSON, live=True)),
        ({"Accept": "application/json"}, {"stream": True}, ResponseMode(JSON, live=True)),
        ({}, {"stream": True, "format": "json"}, ResponseMode(JSON, live=True)),
        ({"Prefer": "respond-async"}, {}, ResponseMode(PNG, wait_s=0.0)),
        ({"Prefer": "respond-async"}, {"stream": True}, ResponseMode(JSON, live=True, wait_s=0.0)),
        ({"Prefer": "wait=10", "Accept": "image/gif"}, {}, ResponseMode(GIF, wait_s=10.0)),
        ({"Prefer": "return=minimal"}, {}, ResponseMode(PNG)),
        ({"Idempotency-Key": "a-1"}, {}, ResponseMode(PNG, key="a-1")),
        ({"Idempotency-Key": "a", "Prefer": "respond-async"}, {}, ResponseMode(PNG, wait_s=0.0, key="a")),
        ({"Prefer": "wait=1"}, {"preview_every": 5}, ResponseMode(PNG, wait_s=1.0)),
    ],
)
def test_how_a_request_is_answered(headers: dict[str, str], fields: dict[str, Any], expected: ResponseMode) -> None:
    chosen = mode_of(headers, **fields)
    assert chosen == expected
    assert chosen.plain == (expected == ResponseMode(expected.media))


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
def test_wait_of_prefer(prefer: str, wait_s: float | None) -> None:
    assert wait_of(request({"Prefer": prefer})) == wait_s


def test_a_get_has_no_key() -> None:
    assert mode_of({"Idempotency-Key": "a"}, method="GET") == ResponseMode(PNG)


@pytest.mark.parametrize(
    ("headers", "fields", "pointer"),
    [
        ({}, {"stream": True, "format": "png"}, "#/format"),
        ({}, {"preview_every": 1}, "#/preview_every"),
        ({"Idempotency-Key": "a"}, {"preview_every": 1}, "#/preview_every"),
    ],
)
def test_a_field_without_effect_is_rejected(headers: dict[str, str], fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        mode_of(headers, **fields)
    assert [problem.pointer for problem in refusal.value.problems] == [pointer]


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "é", "x" * 256])
def test_an_invalid_key_is_rejected(key: str) -> None:
    with pytest.raises(BadRequest, match="1 to 255"):
        mode_of({"Idempotency-Key": key})


def test_a_stream_has_no_key_and_takes_a_format_that_is_offered() -> None:
    with pytest.raises(BadRequest, match="respond-async"):
        mode_of({"Idempotency-Key": "a"}, stream=True)
    with pytest.raises(NotAcceptable, match="text/event-stream"):
        mode_of({"Accept": "text/plain"})
