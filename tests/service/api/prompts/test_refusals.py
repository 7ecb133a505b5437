"""What models with prompts refuse, and what they warn of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from tests.service.api.conftest import JSON, base64_png, pictures, problem, refused
from tests.service.api.prompts.test_pictures import left_half, some_colours, text_rows
from tests.service.conftest import settings_of

PICTURE = base64_png(some_colours())


@pytest.mark.parametrize(
    ("model", "fields", "pointer", "says"),
    [
        ("sd", {"class_label": 1}, "class_label", "it has no classes; describe it in prompt"),
        ("sd", {"negative_class": 1}, "negative_class", "use negative_prompt"),
        ("sd", {"width": 33}, "width", "a multiple of 4 from 4 to 32"),
        ("sd", {"height": 64}, "height", "a multiple of 4 from 4 to 32"),
        ("sd", {"width": 0}, "width", "greater than or equal to 1"),
        ("sd", {"lora": "ink"}, "lora", "its folder has no LoRAs"),
        ("sd", {"control_image": PICTURE}, "control_image", "it reads no control pictures"),
        ("sd", {"solver": "consistency"}, "solver", "'ddim'"),
        ("sd", {"prompt": ["a", "b"], "n": 3}, "prompt", "one value, or a list of 3"),
        ("sd", {"negative_prompt": ["a", "b"]}, "negative_prompt", "has 2 values for 1 pictures"),
        ("sd", {"prompt": []}, "prompt", "at least 1"),
        ("sd", {"prompt": "x" * 10_001}, "prompt", "10000 characters"),
        ("sd", {"prompt": "a\0b"}, "prompt", "control character U+0000 at position 1"),
        ("sd", {"negative_prompt": ["\x1b[0m"]}, "negative_prompt", "U+001B"),
        ("sd", {"negative_prompt": "rain", "guidance_scale": 1.0}, "negative_prompt", "guidance_scale above 1"),
        ("sd", {"image": PICTURE, "strength": 0.1, "steps": 5}, "strength", "leaves no step of 5"),
        ("sd", {"mask": base64_png(left_half())}, "mask", "or send image"),
        ("sd", {"truncation": 0.5}, "truncation", "is not supported"),
        ("sd", {"spread": 1.0, "image": PICTURE}, "spread", "is not supported"),
        ("sd", {"latents": np.zeros((1, 4, 8, 8)).tolist(), "width": 24}, "latents", "(1, 4, 8, 12)"),
        ("lcm", {"negative_prompt": "rain"}, "negative_prompt", "its guidance reads no text"),
        ("lcm", {"solver": "ddim"}, "solver", "'lcm'"),
        ("inpaint9", {"image": PICTURE}, "mask", "only redraws a part of a picture"),
        ("control", {"lora": "oil"}, "lora", "chalk, ink"),
        ("control", {"lora": {"name": "ink", "scale": 9.0}}, "lora", "less than or equal to 4"),
        ("control", {"lora": "ink:9"}, "lora", "outside of -4 to 4: 9"),
        ("control", {"lora": ["ink:nan"]}, "lora", "outside of -4 to 4"),
        ("control", {"lora": "ink:much"}, "lora", "not a number: 'much'"),
        ("control", {"control_scale": 0.5}, "control_scale", "without control_image"),
        ("control", {"control_image": PICTURE, "control": "pose"}, "control", "controlnet"),
        ("control", {"control_image": PICTURE, "control_start": 0.5, "control_end": 0.5}, "control_end", "above"),
        ("classes", {"prompt": "a fox"}, "prompt", "it reads no text (did you mean class_label?)"),
        ("classes", {"width": 8}, "width", "its pictures have one size"),
        ("classes", {"class_label": "none"}, "class_label", "makes no pictures without a class 0, 1, 2, 3, 4"),
        ("classes", {"class_label": [1, "none"], "n": 2}, "class_label", "makes no pictures without a class"),
        ("classes", {"class_label": 5}, "class_label", "has no such class 0, 1, 2, 3, 4"),
        ("classes", {"class_label": 1, "negative_class": 2}, "negative_class", "it has no guidance by class"),
        ("classes", {"class_label": 1, "guidance_scale": 2.0}, "guidance_scale", "it has no guidance"),
        ("classes", {"image": PICTURE}, "image", "it cannot encode pictures"),
    ],
)
def test_a_field_that_the_model_does_not_support(
    studio: TestClient, model: str, fields: dict[str, Any], pointer: str, says: str
) -> None:
    assert says in refused(studio.post(f"/generate/{model}", json=fields), f"#/{pointer}")


@pytest.mark.parametrize("prompt", ["\\ud800", "a\\udc00b", "\\ud83d fox"])
def test_half_of_a_surrogate_pair(studio: TestClient, prompt: str) -> None:
    body = f'{{"prompt": "{prompt}"}}'.encode()
    assert "surrogate" in refused(studio.post("/generate/sd", content=body), "#")


@pytest.mark.parametrize(
    "prompt", ["", " \t\r\n", "x" * 10_000, "ein Füchslein 🦊 狐 ｆ", "\u202eright to left", "e\u0301"]
)
def test_any_other_text_gives_a_picture(studio: TestClient, prompt: str) -> None:
    pictures(studio, "sd", prompt=prompt, steps=1)


def test_text_that_does_not_fit_is_named(studio: TestClient) -> None:
    fields = {"prompt": "abcdefghijklmnopqrstuvwxyz", "negative_prompt": "z" * 5000, "steps": 1}
    for _ in range(2):  # the second time from the cache
        warnings = studio.post("/generate/sd", json=fields, headers=JSON).json()["warnings"]
        assert warnings[0] == "prompt: only the first 14 tokens are read; dropped: opqrstuvwxyz"
        assert warnings[1].startswith("negative_prompt: only the first 14 tokens are read; dropped: zz")
        assert len(warnings[1]) < 300


def test_a_refused_request_reads_nothing(studio: TestClient) -> None:
    rows = text_rows(studio)
    refused(studio.post("/generate/sd", json={"prompt": "a new prompt", "width": 5}), "#/width")
    assert text_rows(studio) == rows


def test_uploads_are_decoded_before_texts_are_read(studio: TestClient) -> None:
    rows = text_rows(studio)
    damaged = studio.post("/generate/sd", json={"prompt": "another new prompt", "image": PICTURE[:60]})
    assert damaged.status_code == 400
    assert text_rows(studio) == rows


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("encode/classes", {"image": PICTURE}),
        ("interpolate", {"model": "lcm"}),
        ("interpolate", {"model": "inpaint9"}),
    ],
)
def test_tasks_that_these_models_do_not_have(studio: TestClient, path: str, fields: dict[str, Any]) -> None:
    assert "cannot" in refused(studio.post(f"/{path}", json=fields), "#/model")


@pytest.mark.parametrize(
    ("fields", "pointer", "says"),
    [
        ({"from": {"image": PICTURE}}, "from/image", "no noise that a picture comes from seed, latents"),
        ({"to": {"class_label": 1}}, "to/class_label", "describe it in prompt"),
        ({"class_label": 1}, "class_label", "describe it in prompt"),
        ({"from": {"prompt": "a\0b"}}, "from/prompt", "U+0000"),
        ({"from": {"latents": np.zeros((4, 8, 8)).tolist()}, "width": 24}, "from/latents", "(4, 8, 12)"),
        ({"solver": "euler_ancestral"}, "solver", "'euler'"),
        ({"width": 33}, "width", "a multiple of 4"),
        ({"lora": "oil"}, "lora", "chalk, ink"),
        ({"negative_prompt": "rain", "guidance_scale": 1.0}, "negative_prompt", "without guidance"),
        ({"model": "classes", "from": {"prompt": "a fox"}}, "from/prompt", "(did you mean class_label?)"),
        ({"model": "classes", "prompt": "a fox"}, "prompt", "(did you mean class_label?)"),
    ],
)
def test_a_path_that_the_model_does_not_have(
    studio: TestClient, fields: dict[str, Any], pointer: str, says: str
) -> None:
    assert says in refused(studio.post("/interpolate", json={"model": "control", **fields}), f"#/{pointer}")


def test_a_folder_of_pixels_interpolates(studio: TestClient) -> None:
    answer = studio.post("/interpolate", json={"model": "classes", "frames": 3, "steps": 2, "class_label": 1})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("points", "pointer"),
    [
        ([{"seed": 1, "class_label": "none"}, {"seed": 2}], "#/points/0/class_label"),
        ([{"seed": 1, "class_label": 1}, {"seed": 2, "class_label": "none"}], "#/points/1/class_label"),
        ([{"latents": np.zeros((3, 8, 8)).tolist()}, {"seed": 2}], "#/class_label"),
    ],
)
def test_every_point_of_classes_alone_has_a_class(studio: TestClient, points: list[Any], pointer: str) -> None:
    answer = studio.post("/interpolate", json={"model": "classes", "frames": 3, "points": points})
    assert refused(answer, pointer) == "classes makes no pictures without a class 0, 1, 2, 3, 4"


def test_latents_need_no_class(studio: TestClient) -> None:
    pictures(studio, "classes", latents=np.zeros((1, 3, 8, 8)).tolist(), seed=7, steps=1)


def test_a_price_covers_the_size_and_names_it(weights: Path, tmp_path: Path) -> None:
    own = tmp_path / "weights"
    own.mkdir()
    (own / "sd").symlink_to(weights / "sd")
    settings = settings_of(own, max_request_ms=1e-3)
    with TestClient(create_app(settings)) as client:
        answer = client.post("/generate/sd", json={"prompt": "a fox", "width": 32, "height": 32})
        errors = problem(answer, 422, "too-expensive")["errors"]
    assert [each["pointer"] for each in errors] == ["#/steps", "#/guidance_scale", "#/width"]
