import json
from collections.abc import Mapping

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.service.api.conftest import assert_same, change_manifest, decode, pictures, problem, refused
from tests.service.artefacts import CLASS_NAMES, some_codes, write_autoencoder


def test_the_map_has_the_points_of_the_artefact(tasks: TestClient) -> None:
    response = tasks.get("/latent-map/vae")
    answer, codes = response.json(), some_codes()
    np.testing.assert_allclose([point[:2] for point in answer["points"]], codes.points, atol=1e-4)
    assert [point[2] for point in answer["points"]] == codes.labels.tolist()
    assert answer["class_names"] == list(CLASS_NAMES)
    assert answer["model_version"] == response.json()["model_version"]
    assert answer["bounds"]["x"] == pytest.approx([codes.points[:, 0].min(), codes.points[:, 0].max()])
    assert answer["bounds"]["y"] == pytest.approx([codes.points[:, 1].min(), codes.points[:, 1].max()])
    np.testing.assert_allclose(answer["origin"], codes.origin, rtol=1e-6)
    np.testing.assert_allclose(answer["axes"], codes.axes, rtol=1e-6)


def test_the_grid_shows_what_the_points_decode_to(tasks: TestClient) -> None:
    answer = tasks.get("/latent-map/vae", params={"across": 3, "down": 2, "class_label": "bag"}).json()
    grid = answer["grid"]
    assert (len(grid["x"]), len(grid["y"])) == (3, 2)
    assert grid["x"] == sorted(grid["x"])
    assert grid["y"] == sorted(grid["y"], reverse=True)
    response = tasks.get(grid["url"])
    assert response.headers["content-type"] == "image/png"
    sprite = decode(response.content)
    assert sprite.shape == (16, 24, 1)
    for row, y in enumerate(grid["y"]):
        for column, x in enumerate(grid["x"]):
            tile = sprite[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert_same(tile, pictures(tasks, "vae", point=[x, y], class_label=2)[0])
    url = answer["decode"].format(x=grid["x"][1], y=grid["y"][0]) + "&class_label=2"
    assert_same(decode(tasks.get(url).content), sprite[:8, 8:16])


def test_accept_chooses_between_numbers_and_pictures(tasks: TestClient) -> None:
    assert tasks.get("/latent-map/vae").headers["vary"] == "Accept"
    picture = tasks.get("/latent-map/vae", headers={"Accept": "image/png"})
    assert decode(picture.content).shape == (82, 82, 1)
    tag = picture.headers["etag"]
    again = tasks.get("/latent-map/vae", headers={"Accept": "image/png", "If-None-Match": tag})
    assert again.status_code == 304
    version = picture.headers["x-model-version"]
    kept = tasks.get("/latent-map/vae", params={"format": "png", "version": version})
    assert "immutable" in kept.headers["cache-control"]
    other = tasks.get("/latent-map/vae", params={"format": "png", "across": 4})
    assert other.headers["etag"] != tag
    problem(tasks.get("/latent-map/vae", headers={"Accept": "text/html"}), 406, "not-acceptable")


@pytest.mark.parametrize(
    ("model", "query", "pointer", "said"),
    [
        ("gan", {}, "#/model", "gan has no latent map vae"),
        ("ddpm", {"format": "png"}, "#/model", "vae"),
        ("vae", {"across": 33, "down": 2}, "#/across", "up to 64"),
        ("vae", {"across": 1}, "#/across", "greater than or equal to 2"),
        ("vae", {"class_label": "shoe"}, "#/class_label", "0 t-shirt"),
        ("vae", {"steps": 3}, "#/steps", "takes no solver steps"),
        ("vae", {"layout": "film"}, "#/layout", "takes no solver steps"),
        ("vae", {"seed": 3}, "#/seed", "no such field"),
        ("vae", {"fps": 5}, "#/fps", "has no effect in json"),
        ("vae", {"quality": 80, "format": "json"}, "#/quality", "has no effect in json"),
        ("vae", {"layout": "strip"}, "#/layout", "png"),
    ],
)
def test_what_is_no_map(tasks: TestClient, model: str, query: Mapping[str, str], pointer: str, said: str) -> None:
    assert said in refused(tasks.get(f"/latent-map/{model}", params=dict(query)), pointer)


def test_a_model_whose_codes_are_damaged_is_rejected(settings: Settings) -> None:
    manifest = write_autoencoder(settings.weights_dir, "coder")
    assert manifest.latents is not None
    file = settings.weights_dir / "coder" / manifest.latents.file
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with TestClient(create_app(settings)) as client:
        assert "SHA-256" in client.get("/health/ready").json()["refused"]["coder"]
    manifest = write_autoencoder(settings.weights_dir, "other")
    change_manifest(settings.weights_dir / "other", class_names=("one",))
    with TestClient(create_app(settings)) as client:
        assert "a label is above 1" in json.dumps(client.get("/health/ready").json()["refused"])
