"""What the clients of OpenAI cannot be brought to send; the rest is in tests/e2e/dialects."""

import base64
import json

import pytest
from starlette.testclient import TestClient

from tests.service.api.conftest import assert_same, decode, problem, refused

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"


def test_the_smallest_request(client: TestClient) -> None:
    response = client.post(GENERATIONS, json={"model": "vae", "prompt": ""})
    assert response.status_code == 200
    answer = response.json()
    (picture,) = answer["data"]
    assert picture["seed"] == int(response.headers["x-seed"])
    assert response.headers["x-model"] == "vae"
    assert answer["size"] == "8x8"
    assert "warnings" not in answer


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"prompt": "bag"}, "#/model"),
        ({"model": "vae"}, "#/prompt"),
        ({"model": "vae", "prompt": "bag", "background": "transparent"}, "#/background"),
        ({"model": "vae", "prompt": "bag", "style": "vivid"}, "#/style"),
        ({"model": "vae", "prompt": "bag", "output_compression": 50}, "#/output_compression"),
        ({"model": "vae", "prompt": "bag", "partial_images": 1}, "#/partial_images"),
        ({"model": "vae", "prompt": "bag", "class_label": 1}, "#/class_label"),
        ({"model": "vae", "prompt": "bag", "n": 65}, "#/n"),
        ({"model": "vae", "prompt": "bag", "output_format": "gif"}, "#/output_format"),
    ],
)
def test_fields_without_effect_are_rejected(client: TestClient, fields: dict[str, object], pointer: str) -> None:
    refused(client.post(GENERATIONS, json=fields), pointer)


def test_a_class_label_stands_for_an_empty_prompt(client: TestClient) -> None:
    fields = {"model": "vae", "prompt": " ", "n": 2, "class_label": ["bag", "none"]}
    answer = client.post(GENERATIONS, json=fields).json()
    assert [picture["revised_prompt"] for picture in answer["data"]] == ["bag", ""]


@pytest.mark.parametrize("size", ["8", "8x", "0x0", "08x08", "8x8x8", "autos", "8x16"])
def test_an_invalid_size_is_rejected(client: TestClient, size: str) -> None:
    response = client.post(GENERATIONS, json={"model": "vae", "prompt": "", "size": size})
    assert problem(response, 400, "bad-request")["error"]["param"] == "size"


@pytest.mark.parametrize(("asked", "most"), [(1, 1), (2, 2), (3, 2), (4, 4), (1000, 4), (0, 0)])
def test_partial_images_are_at_most_so_many(client: TestClient, asked: int, most: int) -> None:
    fields = {"model": "ddpm", "prompt": "bag", "stream": True, "steps": 4, "partial_images": asked}
    body = client.post(GENERATIONS, json=fields).text
    assert body.count("event: image_generation.partial_image\n") == most
    assert body.count("event: image_generation.completed\n") == 1
    assert body.endswith("}\n\ndata: [DONE]\n\n")


def test_an_edit_as_json_is_that_of_the_form(client: TestClient) -> None:
    made = client.post(GENERATIONS, json={"model": "vae", "prompt": "", "size": "16x16"}).json()["data"][0]["b64_json"]
    fields = {"model": "ddpm", "prompt": "bag", "seed": 3}
    answer = client.post(EDITS, json=fields | {"image": made}).json()
    form = client.post(EDITS, data=fields, files={"image[]": base64.b64decode(made)}).json()
    shown = [decode(base64.b64decode(each["data"][0]["b64_json"])) for each in (answer, form)]
    assert_same(*shown)
    assert answer["warnings"] == ["image: resized from 16 x 16 to 8 x 8 pixels"]


def test_an_empty_field_of_a_form_is_as_left_out(client: TestClient) -> None:
    picture = client.post("/generate/vae").content
    fields = {"model": "ddpm", "prompt": "bag", "seed": "3"}
    empty = dict.fromkeys(("n", "size", "user", "quality", "class_label", "svg", "stream"), "")
    plain = client.post(EDITS, data=fields, files={"image": picture}).json()
    answer = client.post(EDITS, data=fields | empty, files={"image": picture, "mask": b""}).json()
    assert answer["data"] == plain["data"]


@pytest.mark.parametrize(
    ("files", "param"), [({"image": b"GIF89a"}, "image"), ({"image": b"GIF89a", "mask": b"?"}, "mask")]
)
def test_an_invalid_picture_is_rejected(client: TestClient, files: dict[str, bytes], param: str) -> None:
    response = client.post(EDITS, data={"model": "ddpm", "prompt": ""}, files=files)
    assert problem(response, 415, "unsupported-image")["error"]["param"] == param


def test_an_edit_has_all_its_fields_in_its_form(client: TestClient) -> None:
    picture = client.post("/generate/vae").content
    answer = client.post("/v1/images/edits", params={"seed": 7}, data={"model": "ddpm"}, files={"image": picture})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "seed"


def test_a_model_that_cannot_edit_says_so(client: TestClient) -> None:
    made = client.post(GENERATIONS, json={"model": "vae", "prompt": ""}).json()["data"][0]["b64_json"]
    response = client.post(EDITS, content=json.dumps({"model": "vae", "prompt": "", "image": made}))
    assert response.status_code == 422
    assert "image" in response.json()["detail"]
