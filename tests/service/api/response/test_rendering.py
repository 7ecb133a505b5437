"""Answers in every format: what they hold is what npy holds."""

import base64
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.images import Pixels, png_parameters
from tests.service.api.conftest import JSON, assert_same, decode, frames, pictures, refused

SEED = {"seed": 5}


def shown(file: bytes, format_: str) -> Pixels:
    """(height, width, channel) of an image."""
    with Image.open(io.BytesIO(file)) as image:
        assert image.format == format_
        return np.asarray(image.convert("L"), np.uint8)[..., None]


def parameters(png: bytes) -> dict[str, Any]:
    text = png_parameters(png)
    assert text is not None
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("n", [1, 5])
def test_webp_is_the_picture_without_loss(client: TestClient, n: int) -> None:
    fields = {**SEED, "n": n}
    png = client.post("/generate/vae", json={**fields, "format": "png"})
    webp = client.post("/generate/vae", json={**fields, "format": "webp"})
    assert_same(shown(webp.content, "WEBP"), decode(png.content))


@pytest.mark.parametrize("format_", ["webp", "jpeg"])
def test_quality_is_size_and_nearness(client: TestClient, format_: str) -> None:
    fields = {**SEED, "n": 16, "scale": 4}
    picture = decode(client.post("/generate/vae", json=fields).content).astype(int)
    sizes, errors = [], []
    for quality in (5, 50, 95):
        response = client.post("/generate/vae", json={**fields, "format": format_, "quality": quality})
        sizes.append(len(response.content))
        errors.append(float(np.abs(shown(response.content, format_.upper()) - picture).mean()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 8


def test_jpeg_is_near_by_default(client: TestClient) -> None:
    fields = {**SEED, "scale": 8}
    jpeg = client.post("/generate/vae", json={**fields, "format": "jpeg"})
    difference = np.abs(shown(jpeg.content, "JPEG").astype(int) - pictures(client, "vae", **fields)[0])
    assert difference.mean() < 8


def test_a_gif_has_a_frame_for_each_picture(client: TestClient) -> None:
    response = client.post("/generate/vae", json={**SEED, "n": 3, "format": "gif"})
    with Image.open(io.BytesIO(response.content)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
        for index, expected in enumerate(pictures(client, "vae", **SEED, n=3)):
            animation.seek(index)
            assert_same(np.asarray(animation.convert("L"), np.uint8)[..., None], expected)


def test_a_zip_holds_pictures_that_say_what_makes_them_alone(client: TestClient) -> None:
    response = client.post("/generate/ddpm", json={**SEED, "n": 3, "class_label": [2, 0, 1], "format": "zip"})
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["0000.png", "0001.png", "0002.png", "params.json"]
        params = json.loads(archive.read("params.json"))
        files = [archive.read(name) for name in archive.namelist()[:3]]
    together = pictures(client, "ddpm", **params["params"])
    for index, file in enumerate(files):
        assert_same(decode(file), together[index])
        alone = parameters(file)["params"]
        assert alone["seed"] == 5 + index
        assert_same(pictures(client, "ddpm", **alone)[0], together[index])


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("vae", {"n": 4}),
        ("vae", {"seeds": [3, 1, 4]}),
        ("ddpm", {"n": 2, "class_label": ["bag", "none"], "scale": 2}),
        ("ddpm", {"steps": 3, "solver": "ddim", "guidance_scale": 2.0}),
        ("vae", {"n": 3, "layout": "strip"}),
    ],
)
def test_a_png_carries_the_request_that_makes_it_again(
    client: TestClient, model: str, fields: Mapping[str, Any]
) -> None:
    response = client.post(f"/generate/{model}", json=fields)
    found = parameters(response.content)
    assert found.keys() == {"model", "model_version", "path", "params"}
    assert (found["model"], found["model_version"]) == (model, response.headers["x-model-version"])
    again = client.post(found["path"], json=found["params"])
    assert_same(decode(again.content), decode(response.content))
    assert again.headers["x-seed"] == response.headers["x-seed"]


def test_a_strip_of_a_path_carries_it_too(client: TestClient) -> None:
    response = client.post("/interpolate", json={"model": "vae", "frames": 4, "method": "linear"})
    found = parameters(response.content)
    assert found["path"] == "/interpolate"
    assert_same(decode(client.post("/interpolate", json=found["params"]).content), decode(response.content))


def test_pictures_in_json_say_what_makes_them_alone(client: TestClient) -> None:
    answer = client.post("/generate/vae", json={"seeds": [9, 2], "metadata": {"a": "ä"}}, headers=JSON).json()
    assert answer["params"]["seeds"] == [9, 2]
    assert answer["metadata"] == {"a": "ä"}
    assert (answer["object"], answer["warnings"]) == ("generation", [])
    for image in answer["images"]:
        file = base64.b64decode(image["b64_json"])
        assert image["mime"] == "image/png"
        assert_same(pictures(client, "vae", **parameters(file)["params"])[0], decode(file))
        assert parameters(file)["params"]["seed"] == image["seed"]
    path = client.post("/interpolate", json={"model": "vae"}, headers=JSON).json()
    assert path["object"] == "interpolation"


def test_json_has_the_time_of_a_step(client: TestClient) -> None:
    timings = client.post("/generate/ddpm", json={"steps": 5}, headers=JSON).json()["timings"]
    assert timings["ms_per_step"] == pytest.approx(timings["compute_ms"] / 5)
    assert timings["total_ms"] >= timings["queue_ms"] + timings["compute_ms"]
    assert client.post("/generate/vae", headers=JSON).json()["timings"]["ms_per_step"] is None


@pytest.mark.parametrize(("layout", "shape"), [("auto", (22, 22)), ("grid", (22, 22)), ("strip", (12, 42))])
@pytest.mark.parametrize("format_", ["png", "webp", "jpeg"])
def test_layout_places_pictures_in_one_image(
    client: TestClient, format_: str, layout: str, shape: tuple[int, int]
) -> None:
    response = client.post("/generate/vae", json={"n": 4, "format": format_, "layout": layout})
    assert shown(response.content, format_.upper()).shape == (*shape, 1)


def test_a_path_may_be_a_grid(client: TestClient) -> None:
    body = {"model": "vae", "from": {"seed": 1}, "to": {"seed": 2}, "frames": 4}
    grid = decode(client.post("/interpolate", json={**body, "layout": "grid"}).content)
    assert grid.shape == (22, 22, 1)
    assert_same(grid[12:20, 12:20], frames(client, **body)[3])


@pytest.mark.parametrize("format_", ["png", "webp", "jpeg", "gif", "json", "npy", "zip"])
def test_a_layout_that_a_format_does_not_have_is_rejected(client: TestClient, format_: str) -> None:
    together = format_ in ("png", "webp", "jpeg")
    for layout in ("grid", "strip", "list"):
        body = {"n": 2, "format": format_, "layout": layout}
        response = client.post("/generate/vae", json=body)
        if together == (layout == "list"):
            assert "zip" in refused(response, "#/layout") or not together
        else:
            assert response.status_code == 200
        assert client.post("/generate/vae", json={**body, "n": 1}).status_code == 200


@pytest.mark.parametrize("format_", ["png", "gif", "json", "npy", "zip"])
def test_quality_without_a_meaning_is_rejected(client: TestClient, format_: str) -> None:
    body = {"format": format_, "quality": 90}
    assert "webp, jpeg" in refused(client.post("/generate/vae", json=body), "#/quality")


def test_a_file_has_a_name(client: TestClient) -> None:
    headers = client.post("/generate/ddpm", json={"seeds": [7, 1], "format": "webp"}).headers
    assert headers["content-disposition"] == 'inline; filename="ddpm-7.webp"'
    assert headers["x-seed"] == "7, 1"
