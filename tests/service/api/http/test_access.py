"""Who may send which request, and the headers of every answer."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from starlette.routing import BaseRoute, Route
from starlette.testclient import TestClient

from service.access.keys import SCOPES, line_of
from service.api.http.access import PUBLIC, PUBLIC_FOLDERS, SECURITY
from service.app import create_app
from service.server.proxy import behind_proxy
from tests.service.artefacts import write_diffusion, write_one_shot
from tests.service.conftest import settings_of

KEYS: dict[str, str] = {scope: f"key-for-{scope}" for scope in SCOPES}
SLOW = "key-with-a-rate"

#: Which scopes a path needs one of, if not "generate".
NEEDED = {"/metrics": {"metrics"}, "/stats": {"generate", "metrics"}}

#: Headers that hold no valid key.
WRONG: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "empty": {"Authorization": ""},
    "scheme only": {"Authorization": "Bearer"},
    "empty key": {"Authorization": "Bearer "},
    "wrong": {"Authorization": "Bearer nothing"},
    "wrong case": {"Authorization": f"Bearer {KEYS['generate'].upper()}"},
    "longer": {"Authorization": f"Bearer {KEYS['generate']}x"},
    "twice": {"Authorization": f"Bearer {KEYS['generate']} {KEYS['generate']}"},
    "other scheme": {"Authorization": f"Digest {KEYS['generate']}"},
    "no base64": {"Authorization": "Basic ***"},
    "as the user": {"Authorization": f"Basic {base64.b64encode(KEYS['generate'].encode() + b':').decode()}"},
    "wrong header": {"X-API-Key": "nothing"},
    "hash": {"X-API-Key": line_of("x", KEYS["generate"], ["generate"]).split('"')[1]},
}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class Guarded:
    """A service with keys, and the routes that it has."""

    client: TestClient
    routes: list[tuple[str, str]]


def routes_of(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of every route, of nested routers too, with something in place of parameters."""
    for route in routes:
        if isinstance(route, Route):
            path = re.sub(r"\{model\w*\}", "vae", route.path)
            for method in {*(route.methods or ()), "OPTIONS"}:
                yield method, re.sub(r"\{[\w:]+\}", "1", path)
        else:
            yield from routes_of(getattr(route, "routes", []) or route.original_router.routes)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    write_one_shot(folder / "weights")
    write_diffusion(folder / "weights")
    lines = [line_of(scope, key, [scope]) for scope, key in KEYS.items()]
    (folder / "keys.toml").write_text("\n".join([*lines, line_of("slow", SLOW, ["generate"], 1e-3)]))
    settings = settings_of(folder / "weights", api_keys_file=folder / "keys.toml")
    app = create_app(settings)
    with TestClient(app, follow_redirects=False) as client:
        yield Guarded(client, sorted({*routes_of(app.routes)}))


def refused(response: httpx2.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["www-authenticate"].startswith("Bearer ")
    assert response.headers["cache-control"] == "no-store"
    require_headers(response)
    if not response.content:  # HEAD
        return
    document = response.json()
    if "code" in document:  # not in the Open Inference Protocol's form
        assert (document["status"], document["code"]) == (status, code)


def require_headers(response: httpx2.Response) -> None:
    """Every answer has each of the security headers once."""
    for name, _ in SECURITY:
        assert len(response.headers.get_list(name.decode())) == 1, name
    assert "server" not in response.headers


def is_public(path: str) -> bool:
    return path in PUBLIC or path.startswith(PUBLIC_FOLDERS)


def test_the_walk_finds_the_routes(guarded: Guarded) -> None:
    paths = {path for _, path in guarded.routes}
    assert {"/", "/generate/vae", "/jobs/1/events", "/metrics", "/models", "/v1/images/generations", "/docs/1"} <= paths
    assert {"/sdapi/v1/txt2img", "/v2/models/vae/infer", "/stats", "/health/ready", "/openapi.json"} <= paths
    assert len(guarded.routes) > 60


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_no_route_answers_without_a_valid_key_unless_it_is_public(guarded: Guarded, headers: Mapping[str, str]) -> None:
    for method, path in guarded.routes:
        response = guarded.client.request(method, path, headers=headers)
        if is_public(path):
            assert response.status_code not in (401, 403), (method, path)
            require_headers(response)
        else:
            refused(response, 401, "no-valid-key")
            said = "This needs" if not headers else "not a valid API key"
            assert not response.content or said in response.text, (method, path)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_opens_what_its_scope_says(guarded: Guarded, scope: str) -> None:
    for method, path in guarded.routes:
        response = guarded.client.request(method, path, headers=bearer(KEYS[scope]))
        if is_public(path) or scope in NEEDED.get(path, {"generate"}):
            assert response.status_code not in (401, 403, 500), (method, path, response.text)
            require_headers(response)
        else:
            refused(response, 403, "wrong-scope")
            assert 'error="insufficient_scope"' in response.headers["www-authenticate"]


@pytest.mark.parametrize(
    "headers",
    [
        bearer(KEYS["generate"]),
        {"Authorization": f"bearer  {KEYS['generate']} "},
        {"X-API-Key": KEYS["generate"]},
        {"Authorization": f"Basic {base64.b64encode(b'anybody:' + KEYS['generate'].encode()).decode()}"},
    ],
    ids=["bearer", "spaces", "header", "password"],
)
def test_a_key_may_come_in_several_ways(guarded: Guarded, headers: Mapping[str, str]) -> None:
    assert guarded.client.post("/generate/vae", headers=headers).status_code == 200


#: Requests that other services have taken for public ones.
SHAPES = [
    "//models",
    "/models/",
    "/%2fmodels",
    "/%6dodels",
    "/./models",
    "/health/../models",
    "/health/..%2fmodels",
    "/health%2f..%2fmodels",
    "/health//../models",
    "/docs",
    "/ui/../models",
    "/ui/..%2f..%2fmodels",
    "/models?/health",
    "/models;/health",
    "/MODELS",
    "/Health",
    "/health/",
    "/health/live/",
    "/health/live/x",
    "/docsx",
    "/uix",
    "/ui",
    "/models%00",
    "/models%23/health",
]
HOSTS = ["testserver", "localhost/health?", "x/health#", "testserver:80@x", "/health", ""]
SPOOFED = [
    {"X-Forwarded-Prefix": "/health"},
    {"X-Original-URL": "/health"},
    {"X-Rewrite-URL": "/health"},
    {"X-HTTP-Method-Override": "OPTIONS"},
    {"Forwarded": "for=127.0.0.1;host=localhost"},
    {"X-Forwarded-For": "127.0.0.1"},
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT", "TRACE", "get", "NOPE"])
def test_no_shape_of_a_request_gets_past(guarded: Guarded, method: str) -> None:
    for shape in SHAPES:
        for extra in [*({"Host": host} for host in HOSTS), *SPOOFED]:
            url = httpx2.URL("http://testserver", raw_path=shape.encode())
            response = guarded.client.request(method, url, headers=extra)
            assert b"capabilities" not in response.content, (shape, extra)
            if response.status_code != 401:
                path = response.request.url.path  # percent-decoded, as the service sees it
                assert is_public(path), (shape, path, extra, response.status_code)


def test_health_has_no_details_without_a_key(guarded: Guarded) -> None:
    for path in ("/health", "/health/ready"):
        assert guarded.client.get(path).json().keys() <= {"status", "live"}
        assert "models" in guarded.client.get(path, headers=bearer(KEYS["metrics"])).json()
        assert guarded.client.get(path, headers=bearer("wrong")).json().keys() <= {"status", "live"}


def test_jobs_and_shares_are_those_of_the_key(guarded: Guarded) -> None:
    own, other = bearer(KEYS["generate"]), bearer(SLOW)
    created = guarded.client.post("/generate/vae", headers={**own, "Prefer": "respond-async"}).json()
    assert created["id"] in [job["id"] for job in guarded.client.get("/jobs", headers=own).json()["jobs"]]
    assert guarded.client.get("/jobs", headers=other).json()["jobs"] == []


def test_a_key_with_a_rate_is_told_it_and_stopped_by_it(guarded: Guarded) -> None:
    first = guarded.client.post("/generate/ddpm", headers=bearer(SLOW))
    assert first.status_code == 200
    assert first.headers["ratelimit-policy"] == '"work";q=0;w=10;qu="device-ms"'
    assert first.headers["ratelimit"].startswith('"work";r=0;t=')
    second = guarded.client.post("/generate/ddpm", headers=bearer(SLOW))
    assert (second.status_code, second.json()["code"]) == (429, "rate-exceeded")
    assert int(second.headers["retry-after"]) >= 1
    assert "ratelimit" in second.headers
    assert guarded.client.get("/models", headers=bearer(SLOW)).status_code == 200  # what costs no device time
    unlimited = guarded.client.post("/generate/ddpm", headers=bearer(KEYS["generate"]))
    assert unlimited.status_code == 200
    assert "ratelimit" not in unlimited.headers


def test_a_rejected_request_costs_nothing(guarded: Guarded) -> None:
    key = bearer(KEYS["generate"])
    assert guarded.client.post("/generate/ddpm", json={"steps": 0}, headers=key).status_code == 422


def test_without_keys_everything_answers_and_has_the_headers(client: TestClient) -> None:
    for path in ("/", "/models", "/metrics", "/nothing", "/docs", "/redoc", "/openapi.json", "/ui/nothing", "/health"):
        require_headers(client.get(path))
        require_headers(client.get(path, headers=bearer("unknown")))
    assert "models" in client.get("/health").json()


OWN = {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}
FOREIGN = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example", "Sec-Fetch-Mode": "no-cors"}


def test_pages_of_other_sites_compute_nothing(client: TestClient) -> None:
    text = {"Content-Type": "text/plain"}
    for headers in (FOREIGN, {**FOREIGN, "Sec-Fetch-Site": "same-site"}, {**FOREIGN, "Origin": "null"}):
        for response in (
            client.post("/generate/vae", content="{}", headers=headers | text),
            client.get("/generate/vae", headers=headers),
            client.post("/generate/vae", headers=headers | {"Sec-Fetch-Mode": "navigate"}),
            client.request("DELETE", "/jobs/1", headers=headers),
        ):
            assert (response.status_code, response.json()["code"]) == (403, "cross-site")
            assert "access-control-allow-origin" not in response.headers
    preflight = client.options("/generate/vae", headers=FOREIGN | {"Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 403


def test_the_own_page_programs_and_links_are_answered(client: TestClient) -> None:
    for headers in (OWN, {}, {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}):
        assert client.post("/generate/vae", headers=headers).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("192.168.1.5:8000", "http://192.168.1.5:8000", 200),
        ("Pictures.local", "http://pictures.local", 200),
        ("pictures.local:80", "http://pictures.local", 200),
        ("pictures.local:443", "https://pictures.local", 200),
        ("[fd00::5]:8000", "http://[fd00::5]:8000", 200),
        ("pictures.local", "https://pictures.local", 200),  # a proxy adds TLS
        ("192.168.1.5:8000", None, 200),
        ("192.168.1.5:8000", "http://192.168.1.5", 403),
        ("192.168.1.5:8000", "http://192.168.1.5:8080", 403),
        ("192.168.1.5:443", "http://192.168.1.5", 403),
        ("192.168.1.5:8000", "http://evil.example", 403),
        ("192.168.1.5:8000", "http://192.168.1.5:8000.evil.example", 403),
        ("192.168.1.5:8000", "null", 403),
        ("192.168.1.5:8000", "", 403),
        ("192.168.1.5:8000", "192.168.1.5:8000", 403),
        ("", "null", 403),
        ("", "http://", 403),
        ("none", "x://", 403),
    ],
)
def test_where_browsers_send_no_fetch_metadata_origin_must_be_host(
    client: TestClient, host: str, origin: str | None, status: int
) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    for response in (
        client.post("/generate/vae", content='{"seed": 1}', headers=headers | {"Content-Type": "text/plain"}),
        client.get("/generate/vae?seed=1", headers=headers),
    ):
        assert response.status_code == status
        assert status == 200 or response.json()["code"] == "cross-site"


def test_origins_of_the_list_need_no_fetch_metadata(tmp_path: Path) -> None:
    write_one_shot(tmp_path / "weights")
    with TestClient(create_app(settings_of(tmp_path / "weights", cors_origins="http://one.example"))) as client:
        asked = {"Access-Control-Request-Method": "POST"}
        for origin, status in (("http://one.example", 200), ("http://two.example", 403)):
            answer = client.post("/generate/vae", headers={"Origin": origin})
            assert answer.status_code == status
            assert ("access-control-allow-origin" in answer.headers) == (status == 200)
            preflight = client.options("/generate/vae", headers={"Origin": origin} | asked)
            assert preflight.status_code == (204 if status == 200 else 403)


def test_the_public_url_is_the_services_own_origin(tmp_path: Path) -> None:
    write_one_shot(tmp_path / "weights")
    settings = settings_of(tmp_path / "weights", public_url="http://pictures.example/gen")
    with TestClient(behind_proxy(create_app(settings), settings)) as client:
        for origin, status in (("http://pictures.example", 200), ("http://10.0.0.7:8000", 403)):
            answer = client.post("/generate/vae", headers={"Host": "10.0.0.7:8000", "Origin": origin})
            assert answer.status_code == status


def test_origins_of_the_list_may_use_the_service(tmp_path: Path) -> None:
    write_one_shot(tmp_path / "weights")
    (tmp_path / "keys.toml").write_text(line_of("page", KEYS["generate"], ["generate"]))
    settings = settings_of(
        tmp_path / "weights",
        api_keys_file=tmp_path / "keys.toml",
        cors_origins="https://one.example, http://localhost:3000",
    )
    listed = {"Sec-Fetch-Site": "cross-site", "Origin": "https://one.example", "Sec-Fetch-Mode": "cors"}
    with TestClient(create_app(settings)) as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = client.options("/generate/vae", headers=listed | asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://one.example"
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in preflight.headers
        answer = client.post("/generate/vae", headers=listed | bearer(KEYS["generate"]))
        assert answer.status_code == 200
        for response in (answer, client.post("/generate/vae", headers=listed)):
            assert response.headers["access-control-allow-origin"] == "https://one.example"
            assert "X-Seed" in response.headers["access-control-expose-headers"]
            assert "Origin" in response.headers.get_list("vary")
        other = client.post("/generate/vae", headers=FOREIGN)
        assert other.json()["code"] == "cross-site"
        assert "access-control-allow-origin" not in other.headers
        assert "Origin" in other.headers.get_list("vary")
        assert client.options("/generate/vae", headers=FOREIGN | asked).status_code == 403
