"""Pictures encoded by the VAE of a model with prompts."""

import base64
import io

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from service.engine.initial_latents import image_tensor
from service.images import encode_png
from tests.service.api.conftest import NPY, base64_png, decode, refused
from tests.service.api.prompts.conftest import require_same
from tests.service.api.prompts.test_pictures import PipeOf, some_colours


@pytest.mark.parametrize("model", ["sd", "sdxl", "lcm", "control", "inpaint9"])
def test_codes_and_reconstructions_are_the_vaes(studio: TestClient, pipe_of: PipeOf, model: str) -> None:
    sent, pipe = some_colours(), pipe_of(model)
    answer = studio.post(f"/encode/{model}", json={"image": base64_png(sent)}).json()
    scale = pipe.vae.config.scaling_factor
    with torch.no_grad():
        posterior = pipe.vae.encode(image_tensor(sent)[None]).latent_dist
        picture = pipe.vae.decode(posterior.mean).sample
    assert np.allclose(answer["codes"][0]["mean"], scale * posterior.mean[0], atol=1e-4)
    assert np.allclose(answer["codes"][0]["logvar"], posterior.logvar[0] + 2 * np.log(scale), atol=1e-4)
    made = decode(base64.b64decode(answer["images"][0]["b64_json"]))
    require_same(made[None], pipe.image_processor.postprocess(picture))


def test_several_pictures_in_a_form(studio: TestClient) -> None:
    files = [("image", encode_png(some_colours(seed))) for seed in range(2)]
    answer = studio.post("/encode/sd", files=files, headers=NPY)
    codes = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert codes.shape == (2, 2, 4, 8, 8)


def test_fields_without_a_meaning(studio: TestClient) -> None:
    fields = {"image": base64_png(some_colours())}
    assert "no solver steps" in refused(studio.post("/encode/sd", json={**fields, "steps": 3}), "#/steps")
    assert "no classes" in refused(studio.post("/encode/sd", json={**fields, "class_label": 1}), "#/class_label")
