"""Paths from prompt to prompt."""

from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from service.sampling.interpolate import slerp
from service.sampling.noise import RowNoise
from tests.service.api.conftest import JSON, assert_other, assert_same, frames, pictures
from tests.service.api.prompts.conftest import require_same
from tests.service.api.prompts.test_pictures import PipeOf
from tests.service.models.diffusers.tiny import diffusers_class

FOX, OWL = "a red fox", "an owl"
HOW: dict[str, Any] = {"steps": 4, "guidance_scale": 7.5, "solver": "ddim"}


@pytest.mark.parametrize("model", ["sd", "sdxl"])
@pytest.mark.parametrize("negative", [None, "rain"])
def test_both_ends_are_the_pictures_of_generate(studio: TestClient, model: str, negative: str | None) -> None:
    ends = {"from": {"seed": 3, "prompt": FOX}, "to": {"seed": 9, "prompt": OWL}}
    path = frames(studio, model=model, **ends, frames=3, negative_prompt=negative, **HOW)
    made = pictures(studio, model, seeds=[3, 9], prompt=[FOX, OWL], negative_prompt=negative, **HOW)
    assert_same(path[[0, 2]], made)
    assert_other(path[1], made[0])
    assert_other(path[1], made[1])


def test_a_frame_between_is_the_picture_of_the_mean(studio: TestClient, pipe_of: PipeOf) -> None:
    """Noise on the great circle, and the embeddings, given to diffusers' own pipeline."""
    ends = {"from": {"seed": 3, "prompt": FOX}, "to": {"seed": 9, "prompt": OWL}}
    path = frames(studio, model="sd", **ends, frames=3, width=24, **HOW)
    pipe = pipe_of("sd")
    (fox, no), (owl, _) = (pipe.encode_prompt(text, "cpu", 1, do_classifier_free_guidance=True) for text in (FOX, OWL))
    one, other = (RowNoise(seed).draw((4, 8, 12))[None] for seed in (3, 9))
    middle = slerp(one, other, torch.tensor([0.5]))
    scheduler = pipe.scheduler
    pipe.scheduler = diffusers_class("DDIMScheduler").from_config(scheduler.config)
    try:
        call = {"num_inference_steps": 4, "guidance_scale": 7.5, "width": 24, "height": 16}
        made = pipe(latents=middle, prompt_embeds=(fox + owl) / 2, negative_prompt_embeds=no, **call)
    finally:
        pipe.scheduler = scheduler
    require_same(path[1:2], made.images)


def test_one_noise_for_all_points(studio: TestClient) -> None:
    points = [{"seed": 3, "prompt": text} for text in (FOX, OWL)] + [{"seed": 3}]
    path = frames(studio, model="control", points=points, prompt="a pond", lora="ink:0.5", frames=5, **HOW)
    made = pictures(studio, "control", seeds=[3] * 3, prompt=[FOX, OWL, "a pond"], lora="ink:0.5", **HOW)
    assert_same(path[::2], made)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_a_path_of_another_solver(studio: TestClient, solver: str) -> None:
    fields = {**HOW, "solver": solver}
    path = frames(studio, model="sd", **{"from": {"seed": 3}, "to": {"seed": 9}}, prompt=FOX, frames=2, **fields)
    assert_same(path, pictures(studio, "sd", seeds=[3, 9], prompt=FOX, **fields))


def test_params_reproduce_the_path(studio: TestClient) -> None:
    asked = {"model": "control", "from": {"prompt": FOX}, "to": {"seed": 9}, "prompt": "x" * 30, "lora": "ink:0.5"}
    answer = studio.post("/interpolate", json={**asked, "frames": 3, "steps": 2}, headers=JSON).json()
    assert answer["params"]["from"]["prompt"] == FOX
    assert answer["params"]["lora"] == {"name": "ink", "scale": 0.5}
    assert answer["warnings"] == [f"prompt: only the first 14 tokens are read; dropped: {'x' * 16}"]
    again = studio.post("/interpolate", json=answer["params"], headers=JSON).json()
    assert again["params"] == answer["params"]
    assert [each["b64_json"] for each in again["images"]] == [each["b64_json"] for each in answer["images"]]
    assert answer["path"]["t"] == [0, 0.5, 1]
