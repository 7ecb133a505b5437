import json

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.contract.manifest import Manifest
from service.settings import Settings
from tests.service.api.conftest import problem
from tests.service.artefacts import CLASS_NAMES
from tests.service.engine.conftest import set_golden


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
    assert card["does"] == {"vae": ["generate", "interpolate"]}.get(
        name, ["generate", "image_to_image", "inpaint", "invert", "interpolate", "blend_classes"]
    )


def test_a_card_has_the_fields_that_mean_something(tasks: TestClient) -> None:
    cards = {card["name"]: card for card in tasks.get("/models").json()}
    fields = {name: set(card["tasks"]["generate"]) for name, card in cards.items()}
    assert {name for name in fields if "steps" in fields[name]} == {"ddpm", "ldm"}
    assert {name for name in fields if "truncation" in fields[name]} == {"vae", "gan"}
    assert {name for name in fields if "image" in fields[name]} == {"vae", "ae", "ddpm", "ldm"}
    assert {name for name in fields if "spread" in fields[name]} == {"vae", "ae"}
    assert {name for name in fields if "point" in fields[name]} == {"vae"}
    assert {name for name, card in cards.items() if "interpolate" in card["tasks"]} == {"vae", "gan", "ddpm", "ldm"}
    assert {name for name, card in cards.items() if "encode" in card["tasks"]} == {"vae", "ae", "ddpm", "ldm"}
    assert {name for name, card in cards.items() if "steps" in card["tasks"].get("encode", {})} == {"ddpm"}
    assert "generate" not in cards["ae"]["does"]
    assert "film" not in cards["vae"]["tasks"]["generate"]["layout"]["enum"]
    assert "film" not in cards["ldm"]["tasks"]["encode"]["layout"]["enum"]


def test_a_field_has_the_models_own_bounds_and_default(tasks: TestClient) -> None:
    card = tasks.get("/models/ddpm").json()["tasks"]
    steps = card["generate"]["steps"]
    assert (steps["type"], steps["minimum"], steps["maximum"], steps["default"]) == ("integer", 1, 1000, 4)
    assert card["encode"]["steps"]["default"] == 50
    assert card["generate"]["solver"]["default"] == "dpmpp_2m"
    assert card["interpolate"]["solver"]["enum"] == ["ddim", "dpmpp_2m"]
    assert card["generate"]["guidance_scale"]["default"] == 1.0
    assert card["generate"]["n"]["maximum"] == card["interpolate"]["frames"]["maximum"] == 64
    assert "film" in card["generate"]["layout"]["enum"]


def test_whatever_has_no_meaning_is_not_in_the_card_and_refused(tasks: TestClient) -> None:
    """The card and the refusals are of one mind, whatever the field."""
    values: dict[str, object] = {
        "steps": 2,
        "solver": "ddim",
        "truncation": 1.0,
        "guidance_scale": 1.0,
        "point": [0, 0],
    }
    for card in tasks.get("/models").json():
        for name, given in values.items():
            fields = {name: given, **({"latents": [[0.0] * 4]} if card["name"] == "ae" else {})}
            response = tasks.post(f"/generate/{card['name']}", json=fields)
            pointers = [each["pointer"] for each in response.json()["errors"]] if response.status_code == 422 else []
            assert (f"#/{name}" not in pointers) == (name in card["tasks"]["generate"])


def test_a_card_tells_how_fast_the_model_is(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        assert client.get("/models/vae").json()["latency"]["request"] == {"count": 0, "p50_ms": None, "p95_ms": None}
        for _ in range(3):
            client.post("/generate/vae")
        latency = client.get("/models/vae").json()["latency"]
        assert {stage: each["count"] for stage, each in latency.items()} == dict.fromkeys(latency, 3)
        assert 0 < latency["compute"]["p50_ms"] <= latency["compute"]["p95_ms"] <= latency["request"]["p95_ms"] * 1.6


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


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/generate"), ("GET", "/generate/"), ("POST", "/encode"), ("GET", "/latent-map")]
)
def test_a_path_without_its_model_is_told_the_known_ones(client: TestClient, method: str, path: str) -> None:
    detail = problem(client.request(method, path), 404, "unknown-model")["detail"]
    assert detail == "The name of a model is missing. The models are: ddpm, vae."


@pytest.mark.parametrize("path", ["/generate/vae/more", "/model", "/favicon.ico"])
def test_a_path_that_is_not_there(client: TestClient, path: str) -> None:
    problem(client.get(path), 404, "not-found")


def test_a_card_leaves_the_golden_picture_out(settings: Settings) -> None:
    set_golden(settings.weights_dir / "vae")
    with TestClient(create_app(settings)) as client:
        one, listed = client.get("/models/vae").json(), client.get("/models").json()
        assert one in listed
        assert "golden" not in one["manifest"]
        assert "artifact" in one["manifest"]
