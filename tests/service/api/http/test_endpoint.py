"""Plain ASGI routes in the app: matching, HEAD, errors, and what every response has."""

import logging
from collections.abc import Iterator

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from service.api.http.endpoint import App, route
from service.api.http.openapi import Operation
from service.app import create_app
from service.errors import InvalidField
from service.settings import Settings
from tests.service.api.conftest import problem, series, value


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The service with an endpoint that fails as its query says."""

    async def fail(request: Request) -> Response:
        kind = request.query_params["kind"]
        if kind == "field":
            raise InvalidField.of("n", "too many", "up to 4")
        if kind == "http":
            raise HTTPException(409, "no", {"X-Why": "because"})
        raise KeyError("the secret")

    app = create_app(Settings(weights_dir=tmp_path_factory.mktemp("weights"), device="cpu", engine_threads=1))
    assert isinstance(app, App)
    app.add_routes([route("/fails/{name}", {"GET": Operation(fail)})])
    with TestClient(app) as client:  # an exception that nobody answers would be raised here
        yield client


def test_an_error_of_the_service_is_its_problem(service: TestClient) -> None:
    document = problem(service.get("/fails/x?kind=field"), 422, "invalid-field")
    assert document["errors"] == [{"pointer": "#/n", "message": "too many", "allowed": "up to 4"}]


def test_an_http_exception_keeps_its_status_and_headers(service: TestClient) -> None:
    response = service.get("/fails/x?kind=http")
    problem(response, 409, "conflict")
    assert response.headers["x-why"] == "because"


def test_what_nobody_expected_is_logged_once_and_answered(
    service: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    before = value(series(service), "errors_total", model="_unknown", reason="internal")
    with caplog.at_level(logging.ERROR):
        problem(service.get("/fails/x?kind=other"), 500, "internal")
    (record,) = caplog.records
    assert record.exc_info
    assert "the secret" in str(record.exc_info[1])
    assert vars(record)["path"] == "/fails/x"
    assert value(series(service), "errors_total", model="_unknown", reason="internal") == before + 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/generate/nope", 404, "unknown-model"),
        ("POST", "/generate/a%2Fb", 404, "not-found"),
        ("POST", "/generate/gr%C3%B6%C3%9Fe", 404, "unknown-model"),
        ("POST", "/generate/", 404, "unknown-model"),
        ("POST", "/generate/vae/more", 404, "not-found"),
        ("DELETE", "/generate/vae", 405, "method-not-allowed"),
        ("GET", "/interpolate", 405, "method-not-allowed"),
        ("POST", "/generate/ddpm?", 406, "not-acceptable"),
    ],
)
def test_every_refusal_is_a_problem(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    headers = {"Accept": "text/html"} if status == 406 else {}
    problem(client.request(method, path, headers=headers), status, code)


def test_a_name_may_be_percent_encoded(client: TestClient) -> None:
    assert client.post("/generate/%76ae").headers["x-model"] == "vae"


def test_a_slash_at_the_end_leads_to_the_path_without_it(client: TestClient) -> None:
    for path in ("/generate/vae", "/interpolate"):
        response = client.post(f"{path}/", follow_redirects=False)
        assert response.status_code == 307
        assert response.headers["location"] == path  # without Host, which the sender chose
    assert client.post("/generate/vae/").status_code == 200


def test_head_is_answered_as_get_is(client: TestClient) -> None:
    response = client.head("/generate/vae?seed=3")
    assert response.status_code == 200
    assert response.headers["x-seed"] == "3"
    assert response.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/metrics", "/models", "/models/vae", "/docs", "/openapi.json"]
)
def test_what_answers_get_answers_head(client: TestClient, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.usefixtures("no_jitter")
def test_what_the_loop_cannot_read_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.admission.lag.SUSTAINED_S", 0.0)
    with TestClient(create_app(settings)) as client:
        for method, path in (("POST", "/generate/vae"), ("GET", "/jobs/none"), ("HEAD", "/generate/vae")):
            response = client.request(method, path)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert problem(client.post("/interpolate", content=b"x" * 100_000), 503, "too-busy")
        assert client.post("/v2/models/vae/infer").json() == {
            "error": "The service is too busy to read this request. Try again in 1 s."
        }
        assert client.get("/health/live").status_code == 200
        assert value(series(client), "errors_total", model="_unknown", reason="too-busy") == 5
