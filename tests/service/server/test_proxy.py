"""The service below a path of another host, behind a proxy that removes the path from requests or does not."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.server.proxy import behind_proxy
from service.settings import Settings
from tests.service.artefacts import write_autoencoder, write_diffusion

PUBLIC = "https://example.org/pictures"
#: How requests reach the service: the proxy's own URL of it, with the path kept or removed.
KEPT, REMOVED = "http://inside:8000/pictures", "http://inside:8000"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    weights = tmp_path_factory.mktemp("proxy") / "weights"
    write_autoencoder(weights)
    write_diffusion(weights)
    settings = Settings(weights_dir=weights, device="cpu", engine_threads=1, max_bucket=8, public_url=PUBLIC)
    with TestClient(behind_proxy(create_app(settings), settings), follow_redirects=False) as client:
        yield client


@pytest.fixture(params=[KEPT, REMOVED], ids=["path kept", "path removed"])
def client(running: TestClient, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    before, running.base_url = running.base_url, request.param
    yield running
    running.base_url = before


def test_nothing_is_between_server_and_application_unless_a_setting_asks_for_it(tmp_path: Path) -> None:
    async def app(*_: Any) -> None: ...

    assert behind_proxy(app, Settings(weights_dir=tmp_path)) is app
    assert behind_proxy(app, Settings(weights_dir=tmp_path, root_path="/a")) is not app


def test_commands_name_the_public_url(client: TestClient) -> None:
    made = client.post("/generate/ddpm", json={"seed": 1}, headers={"Accept": "application/json"}).json()
    assert f"{PUBLIC}/generate/ddpm" in shlex.split(made["reproduce"])
    png = client.post("/generate/ddpm", json={"seed": 1}).content
    again = client.post("/inspect", content=png).json()
    assert f"{PUBLIC}/generate/ddpm" in shlex.split(again["curl"])
    assert f"{PUBLIC}/generate/ddpm" in again["python"]


def test_a_job_is_found_where_its_urls_lead(client: TestClient) -> None:
    accepted = client.post("/generate/ddpm", headers={"Prefer": "respond-async"})
    assert accepted.status_code == 202
    status = accepted.json()
    assert accepted.headers["location"] == status["urls"]["self"] == f"/pictures/jobs/{status['id']}"
    for name in ("self", "events"):
        assert client.get(f"http://inside:8000{status['urls'][name]}").status_code == 200
    assert client.get("/jobs").json()["jobs"][0]["urls"] == status["urls"]
    made = client.get(f"http://inside:8000{status['urls']['result']}", headers={"Accept": "application/json"})
    assert f"{PUBLIC}/generate/ddpm" in made.text


def test_a_redirect_leads_back_through_the_proxy(client: TestClient) -> None:
    redirect = client.get("/models/?a=b")
    assert redirect.status_code == 307
    assert redirect.headers["location"] == "/pictures/models?a=b"


def test_the_page_needs_its_slash(running: TestClient) -> None:
    redirect = running.get(KEPT.removesuffix("/"))
    assert redirect.status_code == 308
    assert redirect.headers["location"] == "/pictures/"


def test_the_page_and_its_links_lead_to_what_is_there(client: TestClient) -> None:
    page = client.get("/", headers={"Accept": "text/html"})
    assert page.status_code == 200
    names = [name for name in re.findall(r'(?:src|href)="([^"#]+)"', page.text) if name != "./"]
    assert "ui/js/main.js" in names
    for name in names:
        assert client.get(f"/{name}").status_code == 200
    for path in client.get("/").json()["links"].values():
        assert path.startswith("/pictures/")
        assert client.get(f"http://inside:8000{path}").status_code == 200


def test_the_openapi_document_names_the_path_as_its_server(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["servers"] == [{"url": "/pictures"}]
    assert "/generate/{model}" in document["paths"]
    assert client.get("/docs").status_code == 200


def test_errors_keep_the_form_of_their_dialect(client: TestClient) -> None:
    assert client.get("/v2/models/nope").json().keys() == {"error"}
    assert client.delete("/v2/health/live").json().keys() == {"error"}
    assert client.get("/nothing").json()["code"] == "not-found"
    assert client.get("/generate/nope").json()["code"] == "unknown-model"


def test_a_latent_map_leads_to_its_grid(client: TestClient) -> None:
    shown = client.get("/latent-map/vae").json()
    assert client.get(f"http://inside:8000{shown['grid']['url']}").status_code == 200
    assert shown["decode"].startswith("/pictures/generate/vae?")
