"""Paths through seeds, pictures and latents, of one class or several."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.sampling.noise import RowNoise
from tests.service.api.conftest import (
    GIF,
    JSON,
    assert_other,
    assert_same,
    base64_png,
    decode,
    frames,
    pictures,
    refused,
    some_picture,
)

IMAGE, OTHER = some_picture(0), some_picture(1)
SMOOTH = np.linspace(60, 180, 64).reshape(8, 8, 1).astype(np.uint8)


@pytest.mark.parametrize("model", ["vae", "gan", "ddpm", "ldm"])
def test_a_path_goes_through_every_point(tasks: TestClient, model: str) -> None:
    shape = {"ddpm": (1, 8, 8), "ldm": (1, 4, 4)}.get(model, (4,))
    latents = RowNoise(9).draw(shape).numpy()
    points = [{"seed": 3}, {"latents": latents.tolist()}, {"seed": 8}]
    path = frames(tasks, model=model, points=points, frames=5, class_label=1)
    for place, seed in ((0, 3), (2, 9), (4, 8)):
        assert_same(path[place], pictures(tasks, model, seed=seed, class_label=1)[0])
    around = frames(tasks, model=model, points=points, frames=6, class_label=1, loop=True)
    assert_same(around[:5], path)
    assert_other(around[5], path[0])


def test_two_points_are_from_and_to(tasks: TestClient) -> None:
    points = [{"seed": 3}, {"seed": 8}]
    path = frames(tasks, model="vae", points=points, frames=4)
    assert_same(path, frames(tasks, model="vae", **{"from": points[0], "to": points[1]}, frames=4))


@pytest.mark.parametrize("model", ["vae", "ldm", "ddpm"])
def test_a_path_may_lead_from_picture_to_picture(tasks: TestClient, model: str) -> None:
    """Through an encoder's means, or the noise that makes the pictures again: what /encode makes of them."""
    images = [base64_png(SMOOTH), base64_png(SMOOTH[::-1])]
    fields: dict[str, Any] = {"model": model, "class_label": 1, "frames": 5}
    if model != "vae":
        fields |= {"steps": 100}
    points = [{"image": image} for image in images]
    answer = tasks.post("/interpolate", json={**fields, "points": points}, headers=JSON).json()
    ends = [decode(base64.b64decode(answer["images"][place]["b64_json"])) for place in (0, -1)]
    steps = {"steps": 100} if model == "ddpm" else {}
    for made, image, shown in zip(ends, images, (SMOOTH, SMOOTH[::-1]), strict=True):
        if model != "ldm":
            query = {"image": image, "class_label": 1, "format": "png", **steps}
            assert_same(made, decode(tasks.post(f"/encode/{model}", json=query).content))
        error = np.mean((made / 255 - shown / 255) ** 2)
        told = answer["path"]["endpoint_psnr"][0 if image == images[0] else -1]
        assert told == pytest.approx(-10 * np.log10(error))
    assert answer["path"]["endpoint_psnr"][1:-1] == [None] * 3
    assert answer["params"]["method"] == ("linear" if model == "vae" else "slerp")
    assert [image["seed"] for image in answer["images"]] == [None] * 5


def test_a_path_from_a_picture_to_a_seed_uses_ddim(tasks: TestClient) -> None:
    body = {"model": "ddpm", "from": {"image": base64_png(SMOOTH)}, "to": {"seed": 4}, "steps": 50}
    answer = tasks.post("/interpolate", json=body, headers=JSON).json()
    assert answer["params"].items() >= {"solver": "ddim", "class_label": None}.items()
    assert [image["class_label"] for image in answer["images"]] == [None] * 10
    last = decode(base64.b64decode(answer["images"][-1]["b64_json"]))
    assert_same(last, pictures(tasks, "ddpm", seed=4, steps=50, solver="ddim", class_label="none")[0])
    again = frames(tasks, **answer["params"])
    assert_same(again[-1], last)
    assert_same(again[0], decode(base64.b64decode(answer["images"][0]["b64_json"])))


def test_a_diffusion_leads_from_class_to_class(tasks: TestClient) -> None:
    fields: dict[str, Any] = {"model": "ddpm", "steps": 1, "frames": 5, "solver": "ddim"}
    points = [{"seed": 6, "class_label": "t-shirt"}, {"seed": 6, "class_label": "bag"}]
    path = frames(tasks, **fields, points=points).astype(float)
    ends = [pictures(tasks, "ddpm", seed=6, steps=1, solver="ddim", class_label=each)[0] for each in (0, 2)]
    for place, frame in enumerate(path):
        assert np.abs(frame - (ends[0] * (1 - place / 4) + ends[1] * (place / 4))).max() <= 1
    answer = tasks.post("/interpolate", json={**fields, "points": points}, headers=JSON).json()
    assert_same(frames(tasks, **answer["params"]), path.astype(np.uint8))


def test_a_point_without_a_class_has_that_of_the_path(tasks: TestClient) -> None:
    points = [{"seed": 1}, {"seed": 2, "class_label": 2}]
    path = frames(tasks, model="ddpm", points=points, frames=2, class_label=1)
    for frame, seed, label in zip(path, (1, 2), (1, 2), strict=True):
        assert_same(frame, pictures(tasks, "ddpm", seed=seed, class_label=label)[0])
    first = frames(tasks, model="vae", points=[{"seed": 1, "class_label": 2}, {"seed": 2}], frames=2)
    assert_same(first[1], pictures(tasks, "vae", seed=2, class_label=2)[0])


def test_easing_is_slow_at_the_points(tasks: TestClient) -> None:
    fields = {"model": "vae", "from": {"seed": 1}, "to": {"seed": 2}, "frames": 9, "class_label": 1}
    answers = [
        tasks.post("/interpolate", json={**fields, "easing": easing}, headers=JSON).json()
        for easing in ("linear", "cosine")
    ]
    even, eased = (answer["path"]["t"] for answer in answers)
    assert even == pytest.approx(np.linspace(0, 1, 9).tolist())
    assert eased == pytest.approx(((1 - np.cos(np.pi * np.linspace(0, 1, 9))) / 2).tolist())
    assert answers[1]["params"]["easing"] == "cosine"


def test_the_answer_has_the_path(tasks: TestClient) -> None:
    body = {"model": "gan", "points": [{"seed": 1}, {"seed": 2}], "frames": 4, "method": "linear"}
    answer = tasks.post("/interpolate", json=body, headers=JSON).json()
    ends = [RowNoise(seed).draw((4,)).numpy() for seed in (1, 2)]
    norms = [float(np.linalg.norm(ends[0] * (1 - t) + ends[1] * t)) for t in (0, 1 / 3, 2 / 3, 1)]
    assert answer["path"]["latent_norm"] == pytest.approx(norms, rel=1e-5)
    path = frames(tasks, **body).astype(float) / 255
    steps = np.sqrt(np.mean(np.diff(path, axis=0) ** 2, axis=(1, 2, 3)))
    assert answer["path"]["step_distance"] == pytest.approx([0.0, *steps])


def test_a_sprite_has_no_gaps_and_a_gif_its_speed(tasks: TestClient) -> None:
    body = {"model": "vae", "from": {"seed": 1}, "to": {"seed": 2}, "frames": 5}
    path = frames(tasks, **body)
    sprite = decode(tasks.post("/interpolate", json={**body, "layout": "sprite"}).content)
    assert sprite.shape == (16, 24, 1)
    assert_same(sprite[8:, 8:16], path[4])
    gif = tasks.post("/interpolate", json={**body, "fps": 25}, headers=GIF)
    with Image.open(io.BytesIO(gif.content)) as animation:
        assert animation.info["duration"] == 40
    assert "gif" in refused(tasks.post("/interpolate", json={**body, "fps": 25}), "#/fps")


@pytest.mark.parametrize(
    ("fields", "pointer", "said"),
    [
        ({"model": "gan", "points": [{"image": base64_png(IMAGE)}, {}]}, "#/points/0/image", "cannot encode"),
        ({"model": "gan", "from": {"image": base64_png(IMAGE)}}, "#/from/image", "cannot encode"),
        ({"points": [{"seed": 1, "image": base64_png(IMAGE)}, {}]}, "#/points/0/image", "one of the two"),
        ({"points": [{}, {"latents": [1, 2]}]}, "#/points/1/latents", "has shape (2) (4)"),
        ({"points": [{}, {"latents": "a"}]}, "#/points/1/latents", "not a .npy file"),
        ({"points": [{}, {}], "to": {"seed": 1}}, "#/points", "one of the two"),
        ({"points": [{}]}, "#/points", "at least 2 items"),
        ({"points": [{}] * 9}, "#/points", "at most 8 items"),
        ({"points": [{}, {"class_label": "shoe"}]}, "#/points/1/class_label", "0 t-shirt"),
        (
            {"points": [{"class_label": 0}, {}, {"class_label": 1}]},
            "#/points/2/class_label",
            "vae, a vae, cannot blend classes one class for all points",
        ),
        (
            {"model": "ddpm", "points": [{"class_label": 0}, {"class_label": 1}], "guidance_scale": 2},
            "#/guidance_scale",
            "points have several",
        ),
        (
            {"model": "ddpm", "from": {"image": base64_png(IMAGE)}, "guidance_scale": 2},
            "#/guidance_scale",
            "there is none",
        ),
        ({"model": "ddpm", "from": {"image": base64_png(IMAGE)}, "solver": "dpmpp_2m"}, "#/solver", "ddim"),
        ({"easing": "cubic"}, "#/easing", "'linear' or 'cosine'"),
        ({"loop": 1}, "#/loop", "valid boolean"),
        ({"eta": 0.5}, "#/eta", "no such field"),
    ],
)
def test_a_path_that_does_not_lead_anywhere(
    tasks: TestClient, fields: Mapping[str, Any], pointer: str, said: str
) -> None:
    assert said in refused(tasks.post("/interpolate", json={"model": "vae", **fields}), pointer)
