import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.api.response.schemas import PicturesAnswer
from service.app import create_app
from service.contract.manifest import Defaults, SolverName
from service.settings import Settings
from tests.service.api.conftest import (
    GIF,
    JSON,
    assert_other,
    assert_same,
    change_manifest,
    decode,
    frames,
    pictures,
    problem,
    refused,
)
from tests.service.artefacts import CLASS_NAMES

ENDS = {"from": {"seed": 3}, "to": {"seed": 8}}
FIELDS = (
    "class_label, easing, format, fps, frames, from, guidance_scale, height, layout, loop, lora, metadata, method, "
    "model, negative_class, negative_prompt, points, preview_every, preview_kind, prompt, quality, "
    "scale, solver, steps, stream, timeout_ms, to, version, width"
)


@pytest.mark.parametrize("method", ["auto", "linear", "slerp"])
@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("vae", {"class_label": "none"}),
        ("vae", {"class_label": "bag"}),
        ("ddpm", {"class_label": "none"}),
        ("ddpm", {"solver": "ddim", "steps": 9, "class_label": 1}),
        ("ddpm", {"class_label": 1, "guidance_scale": 2.5}),
    ],
)
def test_the_ends_are_the_pictures_of_their_seeds(
    client: TestClient, model: str, fields: Mapping[str, Any], method: str
) -> None:
    path = frames(client, model=model, **ENDS, frames=5, method=method, **fields)
    assert_same(path[0], pictures(client, model, seed=3, **fields)[0])
    assert_same(path[-1], pictures(client, model, seed=8, **fields)[0])
    back = frames(client, model=model, **{"from": ENDS["to"], "to": ENDS["from"]}, frames=5, method=method, **fields)
    assert_same(back[::-1], path)


@pytest.mark.parametrize("model", ["vae", "ddpm"])
def test_without_a_class_all_frames_have_that_of_the_first_seed(client: TestClient, model: str) -> None:
    path = frames(client, model=model, **ENDS, frames=3)
    assert_same(path[0], pictures(client, model, seed=3)[0])
    assert_same(path[-1], pictures(client, model, seed=8, class_label=3 % 3)[0])
    answer = client.post("/interpolate", json={"model": model, **ENDS, "frames": 3}, headers=JSON).json()
    assert [image["class_label"] for image in answer["images"]] == [CLASS_NAMES[3 % 3]] * 3


@pytest.mark.parametrize("solver", ["ddpm", "consistency"])
def test_a_model_whose_solver_draws_noise_walks_with_another(settings: Settings, solver: SolverName) -> None:
    change_manifest(settings.weights_dir / "ddpm", defaults=Defaults(steps=5, solver=solver, guidance_scale=1.0))
    with TestClient(create_app(settings)) as client:
        body = {"model": "ddpm", **ENDS, "frames": 3, "class_label": 0}
        answer = client.post("/interpolate", json=body, headers=JSON).json()
        assert answer["params"].items() >= {"solver": "ddim", "steps": 5}.items()
        path = frames(client, **body)
        assert_same(path[0], pictures(client, "ddpm", seed=3, class_label=0, solver="ddim")[0])


@pytest.mark.parametrize("model", ["vae", "ddpm"])
def test_frames_lie_between_their_neighbours(client: TestClient, model: str) -> None:
    path = frames(client, model=model, **ENDS, frames=33).astype(int)
    steps = np.abs(np.diff(path, axis=0)).mean(axis=(1, 2, 3))
    apart = np.abs(path[-1] - path[0]).mean()
    assert steps.max() < apart / 4


def test_auto_is_slerp_and_not_linear(client: TestClient) -> None:
    auto, linear, slerp = (
        frames(client, model="vae", **ENDS, frames=3, method=method) for method in ("auto", "linear", "slerp")
    )
    assert_same(auto, slerp)
    assert_other(auto[1], linear[1])


def test_without_a_body_but_the_model_all_is_default(client: TestClient) -> None:
    response = client.post("/interpolate", json={"model": "vae"}, headers=JSON)
    params = response.json()["params"]
    assert params.items() >= {"frames": 10, "method": "slerp", "scale": 1, "class_label": None}.items()
    again = frames(client, **params)
    shown = np.stack([decode(base64.b64decode(image["b64_json"])) for image in response.json()["images"]])
    assert_same(shown, again)
    other = client.post("/interpolate", json={"model": "vae", "from": {}, "to": {"seed": None}}, headers=JSON)
    assert other.json()["params"]["from"] != params["from"]
    assert other.json()["params"]["from"] != other.json()["params"]["to"]


@pytest.mark.parametrize("count", [2, 7, 64])
def test_a_strip_holds_every_frame_in_order(client: TestClient, count: int) -> None:
    body = {"model": "vae", **ENDS, "frames": count}
    response = client.post("/interpolate", json=body)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-seed"] == "3, 8"
    strip, path = decode(response.content), frames(client, **body)
    assert path.shape == (count, 8, 8, 1)
    assert strip.shape == (12, 10 * count + 2, 1)
    for index, frame in enumerate(path):
        assert_same(strip[2:10, 2 + 10 * index : 10 + 10 * index], frame)


def test_a_gif_plays_every_frame(client: TestClient) -> None:
    body = {"model": "ddpm", **ENDS, "frames": 6, "scale": 2}
    response = client.post("/interpolate", json=body, headers=GIF)
    assert response.headers["content-type"] == "image/gif"
    path = frames(client, **body)
    with Image.open(io.BytesIO(response.content)) as animation:
        assert animation.format == "GIF"
        assert getattr(animation, "n_frames", 1) == 6
        for index in range(6):
            animation.seek(index)
            assert_same(np.asarray(animation.convert("L"), np.uint8)[..., None], path[index])


def test_json_names_the_seeds_of_the_ends_only(client: TestClient) -> None:
    body = {"model": "ddpm", **ENDS, "frames": 4, "class_label": 2}
    response = client.post("/interpolate", json=body, headers=JSON)
    answer = PicturesAnswer.model_validate(response.json(), strict=True)
    assert [image.seed for image in answer.images] == [3, None, None, 8]
    assert {image.class_label for image in answer.images} == {"bag"}
    assert answer.params == {
        "model": "ddpm",
        "from": {"seed": 3},
        "to": {"seed": 8},
        "frames": 4,
        "method": "slerp",
        "class_label": "bag",
        "steps": 4,
        "solver": "dpmpp_2m",
        "guidance_scale": 1.0,
        "scale": 1,
    }
    shown = np.stack([decode(base64.b64decode(image.b64_json)) for image in answer.images])
    assert_same(shown, frames(client, **body))


@pytest.mark.parametrize(
    ("fields", "pointer", "said"),
    [
        ({"solver": "ddpm"}, "#/solver", "'ddim', 'dpmpp_2m' or 'euler'"),
        ({"method": "cubic"}, "#/method", "'auto', 'linear' or 'slerp'"),
        ({"frames": 1}, "#/frames", "greater than or equal to 2"),
        ({"frames": "ten"}, "#/frames", "valid integer"),
        ({"n": 2}, "#/n", f"no such field {FIELDS}"),
        ({"seed": 2}, "#/seed", f"no such field {FIELDS}"),
        ({"start": {"seed": 1}}, "#/start", f"no such field {FIELDS}"),
        ({"from": 3}, "#/from", "object"),
        ({"from": {"seed": -1}}, "#/from/seed", "greater than or equal to 0"),
        ({"to": {"seed": 2**32}}, "#/to/seed", "less than 4294967296"),
        ({"to": {"seed": True}}, "#/to/seed", "valid integer"),
        (
            {"to": {"sed": 1}},
            "#/to/sed",
            "(did you mean seed?) class_label, image, latents, prompt, seed",
        ),
        ({"scale": 0}, "#/scale", "greater than or equal to 1"),
        ({"timeout_ms": 0}, "#/timeout_ms", "greater than or equal to 1"),
        ({"timeout_ms": "5"}, "#/timeout_ms", "valid integer"),
        ({"class_label": "shoe"}, "#/class_label", "0 t-shirt, 1 trouser, 2 bag"),
        ({"model": 3}, "#/model", "valid string"),
        ({"model": None}, "#/model", "valid string"),
        ({"model": "x" * 65}, "#/model", "at most 64 characters"),
    ],
)
def test_a_field_that_the_form_does_not_allow(
    client: TestClient, fields: Mapping[str, Any], pointer: str, said: str
) -> None:
    body = {"model": "ddpm", **ENDS, **fields}
    assert said in refused(client.post("/interpolate", json=body), pointer)


def test_the_model_must_be_named(client: TestClient) -> None:
    for response in (client.post("/interpolate"), client.post("/interpolate", json=ENDS)):
        assert "required" in refused(response, "#/model")
    document = problem(client.post("/interpolate", json={"model": "dppm"}), 404, "unknown-model")
    assert "'dppm'" in document["detail"]
    assert "ddpm, vae" in document["detail"]
    assert "Did you mean ddpm?" in document["detail"]


def test_broken_json_is_rejected(client: TestClient) -> None:
    problem(client.post("/interpolate", content=b'{"model": "vae"'), 400, "bad-request")
