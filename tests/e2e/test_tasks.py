"""The tasks with the models that are shipped."""

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from service.app import create_app
from service.images import encode_png
from service.settings import Settings

WEIGHTS = Path(__file__).parents[2] / "weights"

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    weights = tmp_path_factory.mktemp("shipped")
    for name in ("ddpm", "vae"):
        shutil.copytree(WEIGHTS / name, weights / name)
    settings = Settings(weights_dir=weights, device="cpu", engine_threads=1, max_bucket=4, access_log=False)
    with TestClient(create_app(settings)) as running:
        yield running


def generate(client: TestClient, model: str, **fields: Any) -> Picture:
    response = client.post(f"/generate/{model}", json={**fields, "format": "npy"})
    assert response.status_code == 200, response.text
    return cast(Picture, np.load(io.BytesIO(response.content)))


@pytest.fixture(scope="module")
def sneaker(client: TestClient) -> Picture:
    picture: Picture = generate(client, "ddpm", seed=1, class_label="sneaker")[0]
    return picture


def field(picture: Picture) -> str:
    return base64.b64encode(encode_png(picture)).decode()


def apart(one: Picture, other: Picture) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_what_a_mask_keeps_comes_out_exact(client: TestClient, sneaker: Picture) -> None:
    mask = np.zeros_like(sneaker)
    mask[:, 14:] = 255
    made = generate(client, "ddpm", n=2, seed=5, image=field(sneaker), mask=field(mask), class_label="sneaker")
    assert (made[:, :, :14] == sneaker[:, :14]).all()
    assert apart(made[0][:, 14:], made[1][:, 14:]) > 1


def test_a_weaker_image_to_image_is_nearer_to_the_image(client: TestClient, sneaker: Picture) -> None:
    fields: dict[str, Any] = {"n": 4, "seed": 5, "image": field(sneaker), "class_label": "sneaker"}
    weak, strong = (apart(generate(client, "ddpm", **fields, strength=each), sneaker) for each in (0.2, 0.9))
    assert weak < strong


def test_a_picture_comes_back_from_its_noise_and_from_its_code(client: TestClient, sneaker: Picture) -> None:
    """Better than the best single grey level would do, by far."""
    blank = float(np.mean((sneaker / 255 - sneaker.mean() / 255) ** 2))
    fields = {"image": field(sneaker), "class_label": "sneaker"}
    for model, much, more in (("ddpm", 20, {"steps": 50}), ("vae", 3, {})):
        code = client.post(f"/encode/{model}", json=fields | more).json()["codes"][0]
        assert code["mse"] < blank / much


def test_a_path_from_a_picture_begins_at_it(client: TestClient, sneaker: Picture) -> None:
    body = {"model": "ddpm", "points": [{"image": field(sneaker)}, {"seed": 9}], "class_label": "sneaker"}
    response = client.post("/interpolate", json={**body, "frames": 3, "steps": 40, "format": "json"})
    path = response.json()["path"]
    assert path["endpoint_psnr"][0] > 20
    assert path["endpoint_psnr"][1:] == [None, None]
