import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from service.api.response.schemas import PicturesAnswer
from service.images import Pixels, encode_png
from tests.service.api.conftest import NPY, assert_same, base64_png, decode, pictures, refused, some_picture
from tests.service.artefacts import Encode

IMAGE, OTHER = some_picture(0), some_picture(1)


def encoded(client: TestClient, model: str, **fields: Any) -> dict[str, Any]:
    response = client.post(f"/encode/{model}", json=fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer: dict[str, Any] = response.json()
    PicturesAnswer.model_validate(answer, strict=True)
    assert answer["object"] == "encoding"
    return answer


def shown(answer: Mapping[str, Any]) -> Pixels:
    return np.stack([decode(base64.b64decode(image["b64_json"])) for image in answer["images"]])


@pytest.mark.parametrize("model", ["vae", "ae"])
def test_an_encoder_gives_mean_and_log_variance(tasks: TestClient, model: str) -> None:
    answer = encoded(tasks, model, image=[base64_png(IMAGE), base64_png(OTHER)], class_label=["bag", "none"])
    images = torch.from_numpy(np.stack([IMAGE, OTHER])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        mean, logvar = Encode()(images, torch.tensor([2, 3]))
    for index, code in enumerate(answer["codes"]):
        assert code["mean"] == pytest.approx(mean[index].tolist(), abs=1e-5)
        assert code["logvar"] == pytest.approx(logvar[index].tolist(), abs=1e-5)
        assert (code["index"], code["latent"]) == (index, None)
    again = pictures(tasks, model, latents=mean.tolist(), class_label=["bag", "none"])
    assert_same(shown(answer), again)
    assert [image["class_label"] for image in answer["images"]] == ["bag", None]


def test_the_error_is_that_of_the_reconstruction(tasks: TestClient) -> None:
    answer = encoded(tasks, "vae", image=base64_png(IMAGE))
    code = answer["codes"][0]
    error = np.mean((shown(answer)[0].astype(float) / 255 - IMAGE / 255) ** 2)
    assert code["mse"] == pytest.approx(error)
    assert code["psnr"] == pytest.approx(-10 * math.log10(error))


def test_what_a_latent_diffusion_holds_exactly_has_no_error(tasks: TestClient) -> None:
    blocks = some_picture()[:4, :4].repeat(2, axis=0).repeat(2, axis=1)
    answer = encoded(tasks, "ldm", image=base64_png(blocks), class_label=1)
    assert (answer["codes"][0]["mse"], answer["codes"][0]["psnr"]) == (0.0, None)
    assert_same(shown(answer)[0], blocks)
    assert np.shape(answer["codes"][0]["mean"]) == (1, 4, 4)


def test_a_diffusion_gives_the_noise_that_makes_the_picture_again(tasks: TestClient) -> None:
    smooth = np.linspace(60, 180, 64).reshape(8, 8, 1).astype(np.uint8)
    errors = []
    for steps in (10, 200):
        answer = encoded(tasks, "ddpm", image=base64_png(smooth), class_label=1, steps=steps)
        code = answer["codes"][0]
        errors.append(code["mse"])
        again = pictures(tasks, "ddpm", latents=[code["latent"]], steps=steps, solver="ddim", class_label=1)
        assert_same(shown(answer), again)
        assert (code["mean"], code["logvar"]) == (None, None)
        assert answer["params"]["steps"] == steps
    assert errors[1] < errors[0]


@pytest.mark.parametrize(("model", "shape"), [("vae", (2, 2, 4)), ("ldm", (2, 2, 1, 4, 4)), ("ddpm", (2, 1, 8, 8))])
def test_npy_holds_the_numbers(tasks: TestClient, model: str, shape: tuple[int, ...]) -> None:
    fields = {"image": [base64_png(IMAGE), base64_png(OTHER)]}
    response = tasks.post(f"/encode/{model}", json=fields, headers=NPY)
    codes = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert (codes.shape, codes.dtype) == (shape, np.float32)
    told = encoded(tasks, model, **fields)["codes"]
    first = told[0]["latent"] if model == "ddpm" else [told[0]["mean"], told[0]["logvar"]]
    np.testing.assert_allclose(codes[0], first)


def test_other_forms_show_the_reconstructions(tasks: TestClient) -> None:
    fields = {"image": [base64_png(IMAGE), base64_png(OTHER)], "layout": "sprite", "scale": 2}
    response = tasks.post("/encode/vae", json=fields, headers={"Accept": "image/png"})
    sprite, made = decode(response.content), shown(encoded(tasks, "vae", image=fields["image"]))
    assert_same(sprite[::2, ::2], np.concatenate([*made], axis=1))
    film = tasks.post("/encode/ddpm", json={"image": base64_png(IMAGE), "steps": 4, "layout": "film", "format": "gif"})
    with Image.open(io.BytesIO(film.content)) as animation:
        assert getattr(animation, "n_frames", 1) == 5


def test_the_body_may_be_the_picture_and_a_form_may_have_several(tasks: TestClient) -> None:
    one = tasks.post("/encode/vae", params={"class_label": 1}, content=encode_png(IMAGE)).json()
    assert one["codes"] == encoded(tasks, "vae", image=base64_png(IMAGE), class_label=1)["codes"]
    files = [("image", ("a.png", encode_png(each))) for each in (IMAGE, OTHER)]
    two = tasks.post("/encode/vae", files=files).json()
    assert [code["index"] for code in two["codes"]] == [0, 1]


def test_params_encode_the_same_again(tasks: TestClient) -> None:
    answer = encoded(tasks, "ddpm", image=base64_png(IMAGE), steps=7)
    assert encoded(tasks, "ddpm", **answer["params"])["codes"] == answer["codes"]


def test_a_job_encodes_too(tasks: TestClient) -> None:
    fields = {"image": base64_png(IMAGE), "steps": 5}
    accepted = tasks.post("/encode/ddpm", json=fields, headers={"Prefer": "respond-async"})
    assert accepted.status_code == 202
    result = tasks.get(accepted.headers["location"] + "/result", headers={"Prefer": "wait=30"}).json()
    assert result["codes"] == encoded(tasks, "ddpm", **fields)["codes"]


@pytest.mark.parametrize(
    ("model", "fields", "pointer", "said"),
    [
        ("gan", {}, "#/model", "gan cannot encode"),
        ("vae", {"steps": 5}, "#/steps", "is not supported by vae"),
        ("ldm", {"steps": 5}, "#/steps", "takes no solver steps"),
        ("ldm", {"layout": "film"}, "#/layout", "film is not supported by ldm"),
        ("ddpm", {"steps": 1001}, "#/steps", "1 to 1000"),
        ("ddpm", {"class_label": "shoe"}, "#/class_label", "0 t-shirt"),
        ("ddpm", {"class_label": [1, 2]}, "#/class_label", "a list of 1"),
        ("ddpm", {"image": []}, "#/image", "1 to 8"),
        ("ddpm", {"image": [base64_png(IMAGE)] * 9}, "#/image", "1 to 8"),
        ("ddpm", {"image": None}, "#/image", "valid"),
        ("ddpm", {"guidance_scale": 2}, "#/guidance_scale", "no such field"),
    ],
)
def test_what_cannot_be_encoded_so(
    tasks: TestClient, model: str, fields: Mapping[str, Any], pointer: str, said: str
) -> None:
    body = {"image": base64_png(IMAGE), **fields}
    assert said in refused(tasks.post(f"/encode/{model}", json=body), pointer)


def test_a_picture_is_needed(tasks: TestClient) -> None:
    assert "required" in refused(tasks.post("/encode/vae"), "#/image")
