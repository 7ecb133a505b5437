"""The pictures of requests with prompts are those of diffusers' own pipelines."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from service.images import Pixels, encode_png
from tests.service.api.conftest import (
    JSON,
    assert_other,
    assert_same,
    base64_png,
    decode,
    load,
    pictures,
    read_events,
    series,
    value,
)
from tests.service.api.prompts.conftest import generators, require_same
from tests.service.models.diffusers.tiny import diffusers_class

PipeOf = Callable[[str], Any]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPT, NEGATIVE = "a red Café", "blurry"
CALL = {"num_inference_steps": 5, "guidance_scale": 7.5}
FIELDS: dict[str, Any] = {"prompt": PROMPT, "seed": 3, "steps": 5, "guidance_scale": 7.5}


def some_colours(seed: int = 0) -> Pixels:
    """A picture (16, 16, 3) of any levels."""
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def left_half() -> Pixels:
    """A mask (16, 16, 1) of the left half."""
    mask = np.zeros((16, 16, 1), dtype=np.uint8)
    mask[:, :8] = 255
    return mask


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("model", ["sd", "sdxl"])
def test_text_to_image(studio: TestClient, pipe_of: PipeOf, model: str, negative: str | None) -> None:
    made = pictures(studio, model, **FIELDS, negative_prompt=negative)
    require_same(made, pipe_of(model)(PROMPT, negative_prompt=negative, **CALL, generator=generators(3)).images)


def test_a_prompt_and_a_negative_prompt_for_each_picture(studio: TestClient, pipe_of: PipeOf) -> None:
    prompts, negatives = ["a fox", "an owl", ""], ["rain", "", "snow"]
    made = pictures(studio, "sd", **FIELDS | {"prompt": prompts}, negative_prompt=negatives)
    theirs = pipe_of("sd")(prompts, negative_prompt=negatives, **CALL, generator=generators(3, 4, 5)).images
    require_same(made, theirs)


def test_another_size(studio: TestClient, pipe_of: PipeOf) -> None:
    made = pictures(studio, "sd", **FIELDS, width=32, height=24)
    require_same(made, pipe_of("sd")(PROMPT, width=32, height=24, **CALL, generator=generators(3)).images)


def test_guidance_inside_the_network(studio: TestClient, pipe_of: PipeOf) -> None:
    made = pictures(studio, "lcm", prompt=PROMPT, seed=3)
    require_same(made, pipe_of("lcm")(PROMPT, generator=generators(3)).images)


def test_no_guidance(studio: TestClient, pipe_of: PipeOf) -> None:
    made = pictures(studio, "sd", **FIELDS | {"guidance_scale": 0.0})
    require_same(made, pipe_of("sd")(PROMPT, **CALL | {"guidance_scale": 0.0}, generator=generators(3)).images)


@pytest.mark.parametrize("size", [{}, {"width": 24, "height": 16}])
def test_image_to_image(studio: TestClient, pipe_of: PipeOf, size: dict[str, int]) -> None:
    picture = np.tile(some_colours(), (1, 2, 1))[:, : size.get("width", 16)]
    made = pictures(studio, "sd", **FIELDS, image=base64_png(picture), strength=0.6, **size)
    theirs = _task(pipe_of("sd"), "Img2Img")(PROMPT, Image.fromarray(picture), 0.6, **CALL, generator=generators(3)[0])
    require_same(made, theirs.images)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpainting_by_the_network(studio: TestClient, pipe_of: PipeOf, strength: float) -> None:
    uploads = {"image": base64_png(some_colours()), "mask": base64_png(left_half())}
    made = pictures(studio, "inpaint9", **FIELDS, **uploads, strength=strength)
    require_same(made, _painted(pipe_of("inpaint9"), strength))
    inverted = base64_png(255 - left_half())
    assert_same(
        pictures(studio, "inpaint9", **FIELDS, **uploads | {"mask": inverted}, mask_invert=True, strength=strength),
        made,
    )


def test_inpainting_by_the_steps(studio: TestClient, pipe_of: PipeOf) -> None:
    uploads = {"image": base64_png(some_colours()), "mask": base64_png(left_half())}
    made = pictures(studio, "sd", **FIELDS, **uploads, strength=0.6)
    require_same(made, _painted(_task(pipe_of("sd"), "Inpaint"), 0.6))


def test_control(studio: TestClient, pipe_of: PipeOf) -> None:
    fields = {"control_image": base64_png(some_colours()), "control_scale": 0.8, "control_start": 0.2}
    made = pictures(studio, "control", **FIELDS, **fields, control_end=0.8)
    call = {"controlnet_conditioning_scale": 0.8, "control_guidance_start": 0.2, "control_guidance_end": 0.8}
    theirs = pipe_of("control")(PROMPT, Image.fromarray(some_colours()), **CALL, **call, generator=generators(3))
    require_same(made, theirs.images)
    assert_other(made, pictures(studio, "control", **FIELDS))


def test_a_lora_for_each_picture(studio: TestClient) -> None:
    """That each LoRA gives diffusers' picture is tested with the engine; here that fields reach the right row."""
    loras = [None, "ink", {"name": "ink", "scale": 0.3}, {"name": "chalk"}]
    made = pictures(studio, "control", **FIELDS | {"seed": None}, seeds=[3] * 4, lora=loras)
    for index, lora in enumerate(loras):
        assert_same(made[index : index + 1], pictures(studio, "control", **FIELDS, lora=lora))
        for other in range(index):
            assert_other(made[index], made[other])


def test_latents(studio: TestClient, pipe_of: PipeOf) -> None:
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    made = pictures(studio, "sdxl", **FIELDS, latents=noise.tolist())
    require_same(made, pipe_of("sdxl")([PROMPT] * 2, latents=noise.clone(), **CALL).images)


def test_a_class_of_a_folder(studio: TestClient) -> None:
    made = pictures(studio, "classes", class_label=3, seed=3, steps=3)
    assert_other(made, pictures(studio, "classes", class_label=4, seed=3, steps=3))


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("sd", {"prompt": ["a fox", "an owl"], "negative_prompt": "rain", "width": 24}),
        ("sd", {"image": base64_png(some_colours()), "mask": base64_png(left_half()), "mask_invert": True}),
        ("sdxl", {"latents": np.ones((1, 4, 8, 8)).tolist(), "prompt": "a fox"}),
        ("control", {"lora": ["ink", None], "n": 2}),
        ("control", {"lora": {"name": "ink", "scale": 0.5}, "control_image": base64_png(some_colours())}),
    ],
)
def test_params_reproduce_the_pictures(studio: TestClient, model: str, fields: dict[str, Any]) -> None:
    answer = studio.post(f"/generate/{model}", json={"steps": 3, **fields}, headers=JSON).json()
    again = studio.post(f"/generate/{model}", json=answer["params"], headers=JSON).json()
    assert again["params"] == answer["params"]
    for before, after in zip(answer["images"], again["images"], strict=True):
        png = base64.b64decode(before["b64_json"])
        assert_same(decode(png), decode(base64.b64decode(after["b64_json"])))
        alone = studio.post("/inspect", files={"image": png}).json()["params"]
        assert_same(pictures(studio, model, **alone)[0], decode(png))


def test_a_prompt_that_was_read_is_not_read_again(studio: TestClient) -> None:
    fields = {**FIELDS, "prompt": ["a hut", "a hut", "a pond"], "negative_prompt": "night"}
    rows = text_rows(studio)
    made = pictures(studio, "sd", **fields)
    assert text_rows(studio) == rows + 3
    assert_same(pictures(studio, "sd", **fields), made)
    assert text_rows(studio) == rows + 3


def text_rows(studio: TestClient) -> float:
    """Rows that the text encoder of sd computed."""
    return value(series(studio), "tick_rows_sum", model="sd/text")


def test_a_stream_shows_previews(studio: TestClient) -> None:
    answer = studio.post("/generate/sd", json={**FIELDS, "stream": True, "preview_every": 2})
    events = read_events(answer.content)
    assert [each.name for each in events if each.name in ("preview", "image", "completed")] == [
        "preview",
        "preview",
        "preview",
        "image",
        "completed",
    ]
    assert_same(decode(base64.b64decode(events[-1].data["images"][0]["b64_json"])), pictures(studio, "sd", **FIELDS)[0])


def test_a_get_is_cacheable(studio: TestClient) -> None:
    first = studio.get("/generate/sd?prompt=a+fox&seed=1&steps=2")
    assert first.status_code == 200, first.text
    again = studio.get("/generate/sd?prompt=a+fox&seed=1&steps=2", headers={"If-None-Match": first.headers["etag"]})
    other = studio.get("/generate/sd?prompt=an+owl&seed=1&steps=2")
    assert again.status_code == 304
    assert other.headers["etag"] != first.headers["etag"]
    assert_other(decode(other.content), decode(first.content))


def test_a_form(studio: TestClient) -> None:
    fields = {"prompt": PROMPT, "seed": "3", "steps": "5", "strength": "0.6", "format": "png"}
    sent = studio.post("/generate/sd", data=fields, files={"image": encode_png(some_colours())})
    assert sent.status_code == 200, sent.text
    assert_same(
        decode(sent.content), pictures(studio, "sd", **FIELDS, image=base64_png(some_colours()), strength=0.6)[0]
    )


def test_a_lora_in_a_form(studio: TestClient) -> None:
    fields = {name: str(value) for name, value in FIELDS.items()} | {"format": "npy"}
    one = studio.post("/generate/control", files=[*_parts(fields | {"lora": "ink:0.7", "n": "2"})])
    two = studio.post("/generate/control", files=[*_parts(fields | {"n": "2"}), *_parts({"lora": "ink:0.7"}) * 2])
    assert one.status_code == two.status_code == 200, one.text + two.text
    made = pictures(studio, "control", **FIELDS, n=2, lora={"name": "ink", "scale": 0.7})
    assert_same(load(one.content), made)
    assert_same(load(two.content), made)
    mixed = studio.post(
        "/generate/control", files=[*_parts(fields | {"n": "2", "lora": "ink:0"}), *_parts({"lora": "chalk"})]
    )
    assert_same(load(mixed.content), pictures(studio, "control", **FIELDS, n=2, lora=[None, "chalk"]))


def _parts(fields: dict[str, str]) -> list[tuple[str, tuple[None, str]]]:
    """Parts of a form that are not files."""
    return [(name, (None, value)) for name, value in fields.items()]


def _task(pipe: Any, task: str) -> Any:
    made = diffusers_class(f"StableDiffusion{task}Pipeline")(**pipe.components)
    made.set_progress_bar_config(disable=True)
    return made


def _painted(pipe: Any, strength: float) -> Any:
    image, mask = Image.fromarray(some_colours()), Image.fromarray(left_half()[:, :, 0])
    call = {"image": image, "mask_image": mask, "strength": strength, "width": 16, "height": 16}
    return pipe(PROMPT, **call, **CALL, generator=generators(3)[0]).images
