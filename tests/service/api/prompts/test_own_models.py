"""Requests to text-to-image models that the trainer exported."""

from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.images import Pixels
from tests.service.api.conftest import JSON, base64_png, pictures

FIELDS: dict[str, Any] = {"prompt": "red heart", "seed": 3}


def warnings(studio: TestClient, model: str = "emoji", **fields: Any) -> list[str]:
    answer = studio.post(f"/generate/{model}", json=FIELDS | fields, headers=JSON)
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["warnings"]
    return found


def test_the_prompt_determines_the_picture(studio: TestClient) -> None:
    made = pictures(studio, "emoji", **FIELDS)
    assert made.shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(made, pictures(studio, "emoji", **FIELDS))
    np.testing.assert_array_equal(made, pictures(studio, "emoji", **FIELDS | {"prompt": "\u2764\ufe0f"}))
    for other in ("green apple", ""):
        assert not np.array_equal(made, pictures(studio, "emoji", **FIELDS | {"prompt": other}))


def test_a_picture_is_the_same_in_a_batch(studio: TestClient) -> None:
    prompts = ["red heart", "green apple", "", "woman"]
    together = pictures(studio, "emoji", **FIELDS | {"prompt": prompts})
    for index, prompt in enumerate(prompts):
        (alone,) = pictures(studio, "emoji", prompt=prompt, seed=3 + index)
        np.testing.assert_allclose(together[index].astype(int), alone.astype(int), atol=1)


def test_guidance_and_a_negative_prompt_change_it(studio: TestClient) -> None:
    default = pictures(studio, "emoji", **FIELDS)
    np.testing.assert_array_equal(default, pictures(studio, "emoji", **FIELDS, guidance_scale=3.0))
    np.testing.assert_array_equal(default, pictures(studio, "emoji", **FIELDS, negative_prompt=""))
    for fields in ({"guidance_scale": 1.0}, {"guidance_scale": 5.0}, {"negative_prompt": "green"}):
        assert not np.array_equal(default, pictures(studio, "emoji", **FIELDS, **fields))


def test_unknown_words_are_listed(studio: TestClient) -> None:
    assert warnings(studio) == []
    fields: dict[str, Any] = {"prompt": ["a red fox", "woman"], "negative_prompt": ["", "a Zebra"]}
    assert warnings(studio, **fields) == [
        "prompt: unknown words are ignored: a, fox",
        "negative_prompt: unknown words are ignored: a, Zebra",
    ]
    assert warnings(studio, **fields) == warnings(studio, **fields), "a prompt that is kept has its warnings"
    assert len(warnings(studio, prompt="x" * 9_000)[0]) < 300


def test_a_long_prompt_is_cut(studio: TestClient) -> None:
    (line,) = warnings(studio, prompt="red red red red red green apple")
    assert line == "prompt: only the first 5 tokens are read; dropped: green apple"


def test_a_picture_to_start_from(studio: TestClient) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    sent = {"image": base64_png(picture)}
    near, far = (pictures(studio, "emoji", **FIELDS, **sent, strength=each) for each in (0.25, 1.0))
    assert distance(near, picture) < distance(far, picture)
    mask = np.zeros((8, 8, 1), dtype=np.uint8)
    mask[:, :4] = 255
    (painted,) = pictures(studio, "emoji", **FIELDS, **sent, mask=base64_png(mask))
    np.testing.assert_array_equal(painted[:, 4:], picture[:, 4:])
    assert not np.array_equal(painted[:, :4], picture[:, :4])


def distance(made: Pixels, picture: Pixels) -> float:
    return float(np.abs(made.astype(int) - picture).mean())


def sketch(level: int) -> str:
    """Two rows of ``level`` on white, in 16 x 16 pixels."""
    drawn = np.full((16, 16, 3), 255, dtype=np.uint8)
    drawn[4:8] = level
    return base64_png(drawn)


@pytest.mark.parametrize(("level", "is_stroke"), [(0, True), (150, True), (230, False)])
def test_a_sketch_is_dark_on_white(studio: TestClient, level: int, is_stroke: bool) -> None:
    (plain,) = pictures(studio, "sketch", **FIELDS)
    (drawn,) = pictures(studio, "sketch", **FIELDS, control_image=sketch(level))
    np.testing.assert_array_equal(drawn[4:], plain[4:])
    assert (drawn[2:4] == 255).all() == is_stroke


def test_a_sketch_acts_by_its_scale_and_its_steps(studio: TestClient) -> None:
    plain = pictures(studio, "sketch", **FIELDS)
    for fields in ({"control_scale": 0.0}, {"control_end": 0.1}):
        made = pictures(studio, "sketch", **FIELDS, control_image=sketch(0), **fields)
        np.testing.assert_array_equal(made, plain)


def test_a_sketch_that_is_none_is_reported(studio: TestClient) -> None:
    resized = "control_image: resized from 16 x 16 to 8 x 8 pixels"
    assert warnings(studio, "sketch", control_image=sketch(0)) == [resized]
    blank = base64_png(np.full((8, 8, 3), 255, dtype=np.uint8))
    inverted = base64_png(np.zeros((8, 8, 3), dtype=np.uint8))
    assert warnings(studio, "sketch", control_image=blank) == [
        "control_image: it has no strokes; a sketch is dark on white"
    ]
    assert warnings(studio, "sketch", control_image=inverted) == [
        "control_image: 100% of it is dark; a sketch is dark on white"
    ]


@pytest.mark.parametrize(
    ("model", "fields", "field"),
    [
        ("emoji", {"class_label": "red"}, "class_label"),
        ("emoji", {"negative_class": "red"}, "negative_class"),
        ("emoji", {"control_image": sketch(0)}, "control_image"),
        ("emoji", {"width": 16}, "width"),
        ("emoji", {"lora": "ink"}, "lora"),
        ("emoji", {"solver": "euler"}, "solver"),
        ("emoji", {"negative_prompt": "red", "guidance_scale": 1.0}, "negative_prompt"),
        ("emoji", {"prompt": ["red", "green"], "n": 3}, "prompt"),
        ("sketch", {"control": "depth", "control_image": sketch(0)}, "control"),
        ("sketch", {"control_scale": 0.5}, "control_scale"),
    ],
)
def test_what_they_do_not_support(studio: TestClient, model: str, fields: dict[str, Any], field: str) -> None:
    answer = studio.post(f"/generate/{model}", json=FIELDS | fields)
    assert answer.status_code == 422
    assert field in {problem["pointer"].removeprefix("#/") for problem in answer.json()["errors"]}


@pytest.mark.parametrize(("path", "body"), [("/interpolate", {"from": {"seed": 1}, "to": {"seed": 2}})])
def test_tasks_that_they_do_not_have(studio: TestClient, path: str, body: dict[str, Any]) -> None:
    assert studio.post(path, json={"model": "emoji"} | body).status_code == 422


def test_their_cards(studio: TestClient) -> None:
    card, drawing = (studio.get(f"/models/{name}").json() for name in ("emoji", "sketch"))
    assert card["does"] == ["generate", "text_to_image", "image_to_image", "inpaint"]
    assert drawing["does"] == ["generate", "text_to_image", "image_to_image", "inpaint", "control"]
    assert card["limits"]["tokens"] == 5
    assert card["examples"] == ["woman"]
    fields = card["tasks"]["generate"]
    assert {"prompt", "negative_prompt", "image", "mask", "strength", "guidance_scale"} <= fields.keys()
    assert fields.keys().isdisjoint({"class_label", "lora", "control_image", "width"})
    assert drawing["tasks"]["generate"]["control"]["enum"] == ["sketch"]


def test_openais_client_and_hugging_faces(studio: TestClient) -> None:
    openai = studio.post("/v1/images/generations", json={"model": "emoji", "prompt": "red heart", "n": 2})
    assert openai.status_code == 200, openai.text
    assert len(openai.json()["data"]) == 2
    body = {"inputs": "red heart", "parameters": {"seed": 3, "negative_prompt": "green"}}
    assert studio.post("/generate/emoji", json=body).status_code == 200
