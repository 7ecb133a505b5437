"""The app's own way for its busiest routes: the same answers as FastAPI's, without its layers."""

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient

from service.api.http import error_handlers
from service.api.http.endpoint import App, route
from service.app import create_app
from service.errors import InvalidField
from service.request_info import WHOLE
from service.settings import Settings
from tests.service.api.conftest import Answer, ask, problem, series, value


async def tell(request: Request) -> Response:
    """What a handler sees of its request."""
    return JSONResponse({"method": request.method, "path": request.url.path, "given": request.path_params})


async def refuse(request: Request) -> Response:
    raise HTTPException(409, "no")


async def mark(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["x-layers"] = "passed"
    return response


ROUTES = [route("/fixed", {"POST": tell}), route("/named/{name}", {"GET": tell, "POST": tell})]


def plain_and_own() -> tuple[FastAPI, App]:
    """The routes in FastAPI and in the app with its own way, both with a layer that marks what passes through it."""
    plain, own = FastAPI(), App()
    for each in ROUTES:
        plain.router.routes.append(each)
        own.add_endpoint(each)
    for app in (plain, own):
        app.get("/other")(lambda: "other")
        error_handlers.install(app)
        app.add_middleware(BaseHTTPMiddleware, dispatch=mark)
    return plain, own


@pytest.fixture(scope="module")
def clients() -> Iterator[tuple[TestClient, TestClient]]:
    plain, own = plain_and_own()
    with TestClient(plain, follow_redirects=False) as one, TestClient(own, follow_redirects=False) as other:
        yield one, other


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get", "BREW")
EXACT = [("POST", "/fixed"), *((method, "/named/vae") for method in ("GET", "HEAD", "POST"))]
PATHS = [
    "/fixed",
    "/fixed/",
    "/fixed/more",
    "//fixed",
    "/Fixed",
    "/named",
    "/named/",
    "/named//",
    "/named/vae",
    "/named/vae/",
    "/named/vae/more",
    "//named/vae",
    "/named//vae",
    "/named/a%2Fb",
    "/named/%2F",
    "/named/gr%C3%B6%C3%9Fe",
    "/named/a%20b",
    "/named/%0A",
    "/named/%00",
    "/named/%ff",
    "/named/%25",
    "/named/%7Bname%7D",
    "/named/a+b",
    "/named/a.b",
    "/named/..",
    "/other",
    "/other/",
    "/",
    "/docs/vae",
]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_the_one_that_fastapi_gives(path: str) -> None:
    async def answers(app: FastAPI) -> list[tuple[object, ...]]:
        """What of the answers must not depend on their way."""
        found = [await ask(app, unquote(path), method=method, headers={"X-Request-Id": "one"}) for method in METHODS]
        allowed = [set(answer.headers.get("allow", "").split(", ")) for answer in found]
        names = ("content-type", "content-length", "location")
        return [
            (method, answer.status, answer.body, allow, *(answer.headers.get(name) for name in names))
            for method, answer, allow in zip(METHODS, found, allowed, strict=True)
        ]

    plain, own = plain_and_own()
    assert asyncio.run(answers(own)) == asyncio.run(answers(plain))


@pytest.mark.parametrize(("method", "path"), EXACT)
def test_what_matches_exactly_passes_no_layer(clients: tuple[TestClient, TestClient], method: str, path: str) -> None:
    plain, own = clients
    assert own.request(method, path).status_code == 200
    assert "x-layers" not in own.request(method, path).headers
    assert plain.request(method, path).headers["x-layers"] == "passed"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/other", 200),
        ("GET", "/fixed", 405),
        ("PUT", "/named/vae", 405),
        ("POST", "/fixed/", 307),
        ("GET", "/no", 404),
    ],
)
def test_everything_else_passes_fastapis_layers(
    clients: tuple[TestClient, TestClient], method: str, path: str, status: int
) -> None:
    response = clients[1].request(method, path)
    assert response.status_code == status
    assert response.headers["x-layers"] == "passed"


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
    app.add_endpoint(route("/fails/{name}", {"GET": fail}))
    with TestClient(app) as client:  # an exception that nobody answers would be raised here
        yield client


ORDINARY = ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("path", ["/named/good", "/bad/one"])
@pytest.mark.parametrize("head", [False, True])
def test_an_answer_of_its_own_is_one_message_where_the_server_takes_one(path: str, head: bool) -> None:
    _, app = plain_and_own()
    app.add_endpoint(route("/bad/{name}", {"GET": refuse}))
    asked = partial(ask, app, path, method="HEAD" if head else "GET", headers={"X-Request-Id": "one"})

    async def scenario() -> tuple[Answer, Answer]:
        return await asked(), await asked(extensions=[WHOLE])

    ordinary, whole = asyncio.run(scenario())
    assert (ordinary.messages, whole.messages) == (ORDINARY, [WHOLE])
    assert (whole.status, whole.headers, whole.body) == (ordinary.status, ordinary.headers, ordinary.body)
    assert whole.headers["x-request-id"] == "one"


@pytest.mark.parametrize("path", ["/named/good/more", "/bad/one/more"])
def test_an_answer_that_passes_layers_is_of_messages_that_they_know(path: str) -> None:
    _, app = plain_and_own()
    for name, handler in (("named", tell), ("bad", refuse)):
        app.add_endpoint(route(f"/{name}/{{name}}/more", {"GET": handler}))
    answer = asyncio.run(ask(app, path, method="GET", headers={"X-Request-Id": "one"}, extensions=[WHOLE]))
    assert answer.messages[:2] == ORDINARY
    assert answer.status in (200, 409)
    assert answer.headers["x-request-id"] == "one"


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
        ("POST", "/generate/", 404, "not-found"),
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
        assert response.headers["location"] == f"http://testserver{path}"
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


def test_what_the_loop_cannot_read_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.admission.lag.SUSTAINED_S", 0.0)
    with TestClient(create_app(settings)) as client:
        for method, path in (("POST", "/generate/vae"), ("GET", "/jobs/none"), ("HEAD", "/generate/vae")):
            response = client.request(method, path)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert problem(client.post("/interpolate", content=b"x" * 100_000), 503, "too-busy")
        assert client.post("/v2/models/vae/infer").json() == {"error": "More requests come than this service can read."}
        assert client.get("/health/live").status_code == 200
        assert value(series(client), "errors_total", model="_unknown", reason="too-busy") == 5
