"""PyPI's `webuiapi` against the service, with a model that reads prompts."""

import threading
import time

import numpy as np
import pytest
import webuiapi
from PIL import Image

from service.images import Pixels, encode_png
from tests.e2e.dialects.conftest import native
from tests.e2e.process import Service
from tests.service.api.conftest import assert_same

PROMPT = "a red fox"
FIELDS = {"prompt": PROMPT, "seed": 3, "steps": 4, "guidance_scale": 7.0, "solver": "euler_ancestral"}


@pytest.fixture(scope="module")
def api(studio: Service) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(port=studio.port, steps=4)


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.uint8)


def test_text_to_image(api: webuiapi.WebUIApi, studio: Service) -> None:
    made = api.txt2img(prompt=PROMPT, negative_prompt="rain", seed=3, width=24, height=16, batch_size=2)
    expected = native(studio, "sd", **FIELDS, negative_prompt="rain", width=24, height=16, n=2)
    for image, each in zip(made.images, expected, strict=True):
        assert_same(pixels(image), each)
    assert (made.info["seed"], made.info["all_seeds"], made.info["sampler_name"]) == (3, [3, 4], "Euler a")
    assert made.parameters["prompt"] == PROMPT


def test_a_lora_in_the_prompt(api: webuiapi.WebUIApi, studio: Service) -> None:
    made = api.txt2img(prompt=f"{PROMPT} <lora:ink:0.7>", seed=3, width=16, height=16)
    expected = native(studio, "sd", **FIELDS, lora={"name": "ink", "scale": 0.7})
    assert_same(pixels(made.image), expected[0])


def test_image_to_image(api: webuiapi.WebUIApi, studio: Service) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[:, :8] = 255
    made = api.img2img(
        [Image.fromarray(picture)], prompt=PROMPT, seed=3, width=16, height=16, mask_image=Image.fromarray(mask)
    )
    uploads = {"image": encode_png(picture), "mask": encode_png(mask[:, :, None])}
    form = {name: str(value) for name, value in FIELDS.items()} | {"strength": "0.75", "format": "npy"}
    answer = studio.client.post("/generate/sd", data=form, files=uploads)
    assert answer.status_code == 200, answer.text
    expected = np.frombuffer(answer.content[-16 * 16 * 3 :], np.uint8).reshape(16, 16, 3)
    assert_same(pixels(made.image), expected)


def test_a_unit_of_the_controlnet(api: webuiapi.WebUIApi, studio: Service) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    unit = webuiapi.ControlNetUnit(image=Image.fromarray(picture), weight=0.8, guidance_start=0.25, guidance_end=0.75)
    made = api.txt2img(prompt=PROMPT, seed=3, width=16, height=16, controlnet_units=[unit])
    form = {name: str(value) for name, value in FIELDS.items()} | {"format": "npy"}
    form |= {"control_scale": "0.8", "control_start": "0.25", "control_end": "0.75"}
    answer = studio.client.post("/generate/sd", data=form, files={"control_image": encode_png(picture)})
    assert answer.status_code == 200, answer.text
    assert_same(pixels(made.image), np.frombuffer(answer.content[-16 * 16 * 3 :], np.uint8).reshape(16, 16, 3))
    assert api.controlnet_model_list() == ["controlnet"]
    with pytest.raises(RuntimeError, match="one unit"):
        api.txt2img(prompt=PROMPT, width=16, height=16, controlnet_units=[unit, unit])


def test_progress_and_interrupt(api: webuiapi.WebUIApi) -> None:
    failures: list[str] = []

    def draw() -> None:
        try:
            api.txt2img(prompt=PROMPT, width=32, height=32, steps=500, batch_size=16)
        except RuntimeError as failure:
            failures.append(str(failure))

    drawing = threading.Thread(target=draw)
    drawing.start()
    give_up = time.monotonic() + 30
    while api.get_progress()["current_image"] is None and time.monotonic() < give_up:
        time.sleep(0.01)
    told = api.get_progress()
    assert told["current_image"] is not None, failures
    assert told["state"]["sampling_steps"] == 500
    api.interrupt()
    drawing.join(30)
    assert len(failures) == 1
    assert "410" in failures[0]


def test_what_is_served(api: webuiapi.WebUIApi) -> None:
    (title,) = api.util_get_model_names()
    assert title.startswith("sd [")
    assert api.util_get_current_model() == title
    api.util_set_model("sd")
    assert "Euler a" in api.util_get_sampler_names()
    assert [each["name"] for each in api.get_loras()] == ["ink"]
    api.util_wait_for_ready()
    api.interrupt()


def test_a_refusal_is_an_error_of_the_client(api: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError, match="a multiple of 4 from 4 to 32"):
        api.txt2img(prompt=PROMPT)  # it asks for 512 x 512
    with pytest.raises(RuntimeError, match="enable_hr"):
        api.txt2img(prompt=PROMPT, width=16, height=16, enable_hr=True)
