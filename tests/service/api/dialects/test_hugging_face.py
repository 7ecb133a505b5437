"""The shape of Hugging Face's requests against the native one; the client itself is in tests/e2e/dialects."""

import base64
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.api.conftest import JSON, problem, refused


def ask(client: TestClient, inputs: object, **parameters: object) -> Any:
    return client.post("/generate/ddpm", json={"inputs": inputs, "parameters": parameters}, headers=JSON)


@pytest.mark.parametrize(
    ("parameters", "side"),
    [
        ({"width": 16}, 16),
        ({"height": 24}, 24),
        ({"width": 16, "height": 16}, 16),
        ({"target_size": {"width": 8, "height": 8}}, 8),
        ({"width": None, "height": None}, 8),
    ],
)
def test_sizes(client: TestClient, parameters: dict[str, object], side: int) -> None:
    (picture,) = ask(client, "bag", **parameters).json()["images"]
    assert (picture["width"], picture["height"]) == (side, side)


def test_parameters_have_native_names_too(client: TestClient) -> None:
    params = ask(client, "", class_label="bag", steps=3, scheduler="ddim", n=2).json()["params"]
    assert (params["class_label"], params["steps"], params["solver"], params["n"]) == ("bag", 3, "ddim", 2)


def test_a_negative_prompt_is_a_class(client: TestClient) -> None:
    params = ask(client, "bag", negative_prompt="trouser", guidance_scale=2.0).json()["params"]
    assert params["negative_class"] == "trouser"


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_an_empty_negative_prompt_is_none(client: TestClient, nothing: str | None) -> None:
    body = {
        "inputs": "bag",
        "parameters": {"negative_prompt": nothing, "scheduler": "", "target_size": None, "width": None, "prompt": ""},
        "options": {"use_cache": False, "wait_for_model": True},
    }
    params = client.post("/generate/ddpm", json=body, headers=JSON).json()["params"]
    assert params["class_label"] == "bag"
    assert "negative_class" not in params


@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        ({"steps": 3, "num_inference_steps": 3}, "#/parameters/num_inference_steps"),
        ({"class_label": 1}, "#/parameters/class_label"),
        ({"prompt": "bag"}, "#/parameters/prompt"),
        ({"width": 0}, "#/parameters/width"),
        ({"num_inference_steps": 0}, "#/steps"),
        ({"strengh": 0.5}, "#/strengh"),
        ({"scale": 2, "width": 16, "height": 16}, "#/parameters/scale"),
        ({"width": 16, "target_size": {"width": 8, "height": 8}}, "#/parameters/target_size"),
    ],
)
def test_what_is_wrong_is_named(client: TestClient, parameters: dict[str, object], pointer: str) -> None:
    refused(ask(client, "bag", **parameters), pointer)


def test_another_size_is_refused(client: TestClient) -> None:
    assert problem(ask(client, "", width=8, height=16), 400, "bad-request")["error"]["param"] == "parameters/width"


def test_inputs_that_are_a_picture_are_one(client: TestClient) -> None:
    picture = base64.b64encode(client.post("/generate/vae").content).decode()
    for inputs in (picture, f"data:image/png;base64,{picture}"):
        params = ask(client, inputs, prompt="bag", strength=0.5).json()["params"]
        assert (params["class_label"], params["strength"]) == ("bag", 0.5)


def test_unknown_fields_beside_inputs_are_rejected(client: TestClient) -> None:
    picture = base64.b64encode(client.post("/generate/vae").content).decode()
    refused(ask(client, picture, prompt="bag", image=picture), "#/parameters/image")
    body = {"inputs": "bag", "parameters": {}}
    refused(client.post("/generate/ddpm", params={"seed": 7}, json=body), "#/seed")


def test_a_native_body_may_have_the_word(client: TestClient) -> None:
    response = client.post("/generate/vae", json={"metadata": {"inputs": "mine"}}, headers=JSON)
    assert response.json()["metadata"] == {"inputs": "mine"}


def test_health(client: TestClient) -> None:
    assert client.get("/generate/vae/health").json() == {"model": "vae", "status": "ready"}
    problem(client.get("/generate/nothing/health"), 404, "unknown-model")
