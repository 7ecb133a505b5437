from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from service.access.buckets import Buckets
from service.access.keys import KeyFile, line_of
from service.admin import create_admin
from service.app import create_app
from service.contract.manifest import read_manifest
from service.settings import Settings
from tests.service.artefacts import PoisonDecode, write_one_shot


@pytest.fixture
def public(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as running:
        yield running


@pytest.fixture
def admin(public: TestClient) -> TestClient:
    """The operator's client of the same service, on the same event loop."""
    client = TestClient(create_admin(lambda: public.app.state.service.models), base_url="http://127.0.0.1")  # type: ignore[attr-defined]
    client.portal = public.portal
    return client


def refused(response: httpx2.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document.keys() == {"type", "title", "status", "detail", "code"}
    assert (document["status"], document["code"]) == (status, code)
    return str(document["detail"])


def test_a_version_comes_and_goes_and_answers_say_which(public: TestClient, admin: TestClient, weights: Path) -> None:
    first = read_manifest(weights / "vae").version
    second = write_one_shot(weights, "vae", PoisonDecode()).version
    swapped = {"model": "vae", "outcome": "swapped", "version": second, "previous": first, "note": None}
    assert admin.post("/models/vae/reload").json() == swapped
    assert public.post("/generate/vae").headers["x-model-version"] == second
    standing = next(each for each in admin.get("/models").json() if each["model"] == "vae")
    assert standing == {
        "model": "vae",
        "state": "serving",
        "version": second,
        "manifest_version": second,
        "earlier_versions": [first],
        "problem": None,
        "changing": False,
    }
    assert admin.post("/models/vae/rollback").json()["version"] == first
    assert public.post("/generate/vae").headers["x-model-version"] == first
    assert admin.post("/models/vae/rollback", params={"version": second}).json()["version"] == second


def test_an_unloaded_model_is_unknown_until_it_is_loaded(public: TestClient, admin: TestClient) -> None:
    assert admin.post("/models/vae/unload").json()["outcome"] == "unloaded"
    assert public.post("/generate/vae").status_code == 404
    assert [card["name"] for card in public.get("/models").json()] == ["ddpm"]
    assert public.get("/health/ready").status_code == 200
    assert admin.post("/models/vae/load").json()["outcome"] == "swapped"
    assert public.post("/generate/vae").status_code == 200


def test_what_cannot_be_done_is_told(public: TestClient, admin: TestClient, weights: Path) -> None:
    assert "ddpm, vae" in refused(admin.post("/models/nope/reload"), 404, "unknown-model")
    assert "reload" in refused(admin.post("/models/vae/load"), 409, "already-served")
    refused(admin.post("/models/nope/unload"), 409, "not-served")
    refused(admin.post("/models/vae/rollback"), 409, "no-such-version")
    manifest = weights / "vae" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"vae"', '"gan"'))
    assert "manifest.json" in refused(admin.post("/models/vae/reload"), 422, "model-unusable")
    assert public.post("/generate/vae").status_code == 200


def test_all_are_reloaded_and_the_failures_told(public: TestClient, admin: TestClient, weights: Path) -> None:
    unchanged = admin.post("/reload")
    assert unchanged.status_code == 200
    assert {each["outcome"] for each in unchanged.json()} == {"unchanged"}
    (weights / "vae" / "manifest.json").write_text("{}")
    mixed = admin.post("/reload")
    assert mixed.status_code == 207
    assert [each.get("outcome", each.get("code")) for each in mixed.json()] == ["unchanged", "model-unusable"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "http://127.0.0.1:8001"}, 403), ({"Origin": "null"}, 403), ({"Host": "evil.example"}, 400)],
)
def test_a_web_page_commands_nothing(
    public: TestClient, admin: TestClient, headers: dict[str, str], status: int
) -> None:
    assert admin.post("/models/vae/unload", headers=headers).status_code == status
    assert public.post("/generate/vae").status_code == 200


def test_commands_are_posted_and_known(admin: TestClient) -> None:
    assert admin.get("/models/vae/unload").status_code == 405
    assert admin.post("/models/vae/destroy").status_code == 404
    assert admin.get("/models").status_code == 200


@pytest.mark.parametrize("path", ["/reload", "/models/vae/reload", "/models/vae/unload", "/models/vae/rollback"])
def test_the_public_port_takes_no_commands(public: TestClient, path: str) -> None:
    assert public.post(path).status_code == 404


def test_before_the_models_are_loaded_there_is_nothing_to_change(settings: Settings) -> None:
    admin = TestClient(create_admin(lambda: None), base_url="http://localhost")
    refused(admin.post("/reload"), 503, "starting")


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    path = tmp_path / "keys.toml"
    path.write_text("\n".join(line_of(scope, f"key-for-{scope}", [scope]) for scope in ("admin", "generate")))
    return KeyFile(path, Buckets())


@pytest.fixture
def guarded(public: TestClient, keys: KeyFile) -> TestClient:
    """The operator's client of a service with API keys."""
    manager = public.app.state.service.models  # type: ignore[attr-defined]
    client = TestClient(create_admin(lambda: manager, lambda: keys), base_url="http://127.0.0.1")
    client.portal = public.portal
    return client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


COMMANDS = [("GET", "/models"), ("POST", "/reload")]
COMMANDS += [("POST", f"/models/vae/{command}") for command in ("load", "reload", "unload", "rollback")]


@pytest.mark.parametrize(("method", "path"), COMMANDS)
def test_with_keys_a_command_needs_the_scope_admin(guarded: TestClient, method: str, path: str) -> None:
    for headers, status, code in (
        ({}, 401, "no-valid-key"),
        (bearer("nothing"), 401, "no-valid-key"),
        (bearer("key-for-generate"), 403, "wrong-scope"),
    ):
        response = guarded.request(method, path, headers=headers)
        refused(response, status, code)
        assert response.headers["www-authenticate"].startswith("Bearer ")
    assert guarded.request(method, path, headers=bearer("key-for-admin")).status_code in (200, 409)


def test_a_reload_reads_the_keys_and_says_what_is_wrong_with_them(
    guarded: TestClient, keys: KeyFile, tmp_path: Path
) -> None:
    path, admin = tmp_path / "keys.toml", bearer("key-for-admin")
    valid = path.read_text()
    path.write_text(valid + "\n" + line_of("more", "another", ["generate"]))
    response = guarded.post("/reload", headers=admin)
    assert (response.status_code, response.json()[0]) == (200, {"keys": 3, "outcome": "read"})
    path.write_text(valid + "nonsense")
    response = guarded.post("/reload", headers=admin)
    assert response.status_code == 207
    assert response.json()[0]["code"] == "keys-unusable"
    assert "The API keys stay as they are." in response.json()[0]["detail"]
    assert keys.ring.find("another") is not None
