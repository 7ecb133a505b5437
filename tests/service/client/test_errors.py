import httpx
import pytest

from service.client.errors import FieldProblem, Unreachable, refused
from tests.service.client.answers import refusal


def test_a_problem_document_is_read_in_full() -> None:
    failure = refused(refusal(422, "invalid-field", steps="is above 1000"))
    assert (failure.status, failure.code, failure.request_id) == (422, "invalid-field", "an-id")
    assert failure.problems == (FieldProblem("#/steps", "is above 1000"),)
    assert str(failure) == "It is not to be had."
    assert failure.retry_after_s is None


@pytest.mark.parametrize("content", [b"<html>", b"{}", b"[]", b'{"status": 502, "code": "x", "detail": "y"}'])
def test_an_error_of_something_between_is_told_as_it_is(content: bytes) -> None:
    request = httpx.Request("GET", "http://proxy/models")
    failure = refused(httpx.Response(502, content=content, headers={"X-Request-Id": "its"}, request=request))
    assert (failure.status, failure.code, failure.request_id) == (502, "unknown", "its")
    assert str(failure) == "http://proxy/models answered 502 Bad Gateway."


@pytest.mark.parametrize(
    ("failure", "may_pass"),
    [
        (httpx.ConnectError("refused"), True),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.ReadError("reset"), True),
        (httpx.RemoteProtocolError("closed"), True),
        (httpx.ReadTimeout("silent"), False),
        (httpx.UnsupportedProtocol("ftp"), False),
    ],
)
def test_which_failures_of_a_connection_may_pass(failure: httpx.TransportError, may_pass: bool) -> None:
    assert Unreachable(failure, "http://there").may_pass == may_pass
