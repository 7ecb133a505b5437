import json

import pytest
from starlette.testclient import TestClient

from service.contract.manifest import Manifest
from tests.service.api.conftest import problem
from tests.service.artefacts import CLASS_NAMES


def test_the_list_holds_every_model(client: TestClient) -> None:
    cards = client.get("/models").json()
    assert [card["name"] for card in cards] == ["ddpm", "vae"]
    assert cards == [client.get(f"/models/{name}").json() for name in ("ddpm", "vae")]


@pytest.mark.parametrize(
    ("name", "limits"),
    [("vae", {"n": 64, "frames": 64}), ("ddpm", {"n": 64, "frames": 64, "steps": 1000})],
)
def test_a_card_is_the_manifest_and_the_limits(client: TestClient, name: str, limits: dict[str, int]) -> None:
    response = client.get(f"/models/{name}")
    assert response.headers["content-type"] == "application/json"
    card = response.json()
    manifest = Manifest.model_validate_json(json.dumps(card["manifest"]))
    assert (card["name"], card["family"], card["version"]) == (name, manifest.family, manifest.version)
    assert card["version"] == manifest.artifact.sha256[:8]
    assert card["image_shape"] == [1, 8, 8]
    assert card["class_names"] == list(CLASS_NAMES)
    assert card["capabilities"] == ["generate", "interpolate"]
    assert card["limits"] == limits


@pytest.mark.parametrize("path", ["/generate/{}", "/models/{}"])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nope", "'nope'"),
        ("dppm", "Did you mean ddpm?"),
        ("VAE", "'VAE'"),
        ("_unknown", "'_unknown'"),
        ("%0A%00%1B%5B31m", r"'\n\x00\x1b[31m'"),
        ("%3Cscript%3E", "'<script>'"),
        ("..%2e", "'...'"),
        ("x" * 5000, f"'{'x' * 64}'"),
    ],
)
def test_an_unknown_model_is_told_the_known_ones(client: TestClient, path: str, name: str, told: str) -> None:
    document = problem(client.get(path.format(name)), 404, "unknown-model")
    assert told in document["detail"]
    assert "The models are: ddpm, vae." in document["detail"]
    assert len(document["detail"]) < 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/generate/vae", {"GET", "HEAD", "POST"}),
        ("DELETE", "/generate/vae", {"GET", "HEAD", "POST"}),
        ("GET", "/interpolate", {"POST"}),
        ("POST", "/models", {"GET"}),
        ("POST", "/models/vae", {"GET"}),
        ("POST", "/health/ready", {"GET"}),
        ("PATCH", "/metrics", {"GET"}),
    ],
)
def test_a_method_that_a_path_does_not_have(client: TestClient, method: str, path: str, allowed: set[str]) -> None:
    response = client.request(method, path)
    problem(response, 405, "method-not-allowed")
    assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/", "/generate", "/generate/", "/generate/vae/more", "/model", "/favicon.ico"])
def test_a_path_that_is_not_there(client: TestClient, path: str) -> None:
    problem(client.get(path), 404, "not-found")
