import ast
import base64
import io
import json
import shlex
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from starlette.testclient import TestClient

from service.app import create_app
from service.decoding.strip import MAX_PARTS
from service.images import encode_png
from service.settings import Settings
from tests.service.api.conftest import decode, problem, refused

PLAIN = encode_png(np.zeros((8, 8, 1), np.uint8))


@pytest.fixture(scope="module")
def png(client: TestClient) -> bytes:
    response = client.post("/generate/ddpm", json={"seed": 7, "n": 2, "class_label": "bag", "steps": 3})
    return response.content


def asked(client: TestClient, png: bytes) -> list[httpx2.Response]:
    text = base64.b64encode(png).decode()
    return [
        client.post("/inspect", content=png),
        client.post("/inspect", json={"image": text}),
        client.post("/inspect", json={"image": f"data:image/png;base64,{text}"}),
        client.post("/inspect", files={"image": ("any name", png, "text/plain")}),
        client.post("/inspect", files={"image": (None, text)}),
    ]


def test_a_picture_has_its_parameters_however_it_is_sent(client: TestClient, png: bytes) -> None:
    answers = [response.json() for response in asked(client, png)]
    assert all(answer == answers[0] for answer in answers)
    version = client.get("/models/ddpm").json()["version"]
    assert answers[0].keys() == {"model", "model_version", "path", "params", "served_version", "curl", "python"}
    assert (answers[0]["model"], answers[0]["path"]) == ("ddpm", "/generate/ddpm")
    assert answers[0]["model_version"] == answers[0]["served_version"] == version
    assert answers[0]["params"].items() >= {"n": 2, "seed": 7, "class_label": "bag", "steps": 3}.items()
    again = client.post(answers[0]["path"], json=answers[0]["params"])
    assert again.content == png


def test_what_another_program_wrote_as_text_is_read(client: TestClient, png: bytes) -> None:
    """A program that keeps the text, in the older kind of chunk."""
    with Image.open(io.BytesIO(png)) as image:
        text = PngImagePlugin.PngInfo()
        text.add_text("parameters", image.info["parameters"])
        saved = io.BytesIO()
        image.save(saved, "PNG", pnginfo=text)
    assert client.post("/inspect", content=saved.getvalue()).json() == client.post("/inspect", content=png).json()


PARAMETERS: dict[str, Any] = {"model": "vae", "model_version": "0" * 8, "path": "/generate/vae", "params": {"seed": 1}}


def test_of_a_model_that_is_not_served_nothing_is_promised(client: TestClient) -> None:
    picture = encode_png(decode(PLAIN), json.dumps({**PARAMETERS, "model": "gone"}).encode())
    assert client.post("/inspect", content=picture).json()["served_version"] is None


@pytest.mark.parametrize(
    "text",
    [
        b"a photograph, 50 mm",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 10_000,
        json.dumps({**PARAMETERS, "more": 1}).encode(),
        json.dumps({**PARAMETERS, "path": "/generate/vae; rm -rf /"}).encode(),
        json.dumps({**PARAMETERS, "path": "@example.org/"}).encode(),
        json.dumps({**PARAMETERS, "model": "$(id)"}).encode(),
        json.dumps({**PARAMETERS, "model_version": "latest"}).encode(),
        json.dumps({**PARAMETERS, "params": {"class_label": "x" * 70_000}}).encode(),
        b"",
    ],
)
def test_a_picture_with_other_text_or_none_is_rejected(client: TestClient, text: bytes) -> None:
    for response in asked(client, encode_png(decode(PLAIN), text))[:3]:
        assert "carries no parameters" in refused(response, "#/image")


def test_what_a_stranger_wrote_stays_one_word_of_the_command(client: TestClient) -> None:
    params = {"class_label": "'; rm -rf / #", "metadata": {"a": "$(id) `id` \\"}}
    picture = encode_png(decode(PLAIN), json.dumps({**PARAMETERS, "params": params}).encode())
    answer = client.post("/inspect", content=picture).json()
    words = shlex.split(answer["curl"])
    assert words[:4] == ["curl", "-X", "POST", "http://testserver/generate/vae"]
    assert json.loads(words[words.index("-d") + 1]) == params
    texts = [node.value for node in ast.walk(ast.parse(answer["python"])) if isinstance(node, ast.Constant)]
    assert params in [json.loads(text) for text in texts if isinstance(text, str) and text.startswith("{")]


@pytest.mark.parametrize("host", ["evil.example'; id", "a b", "", "a/b", "[::1", "x" * 300])
def test_a_host_that_is_none_is_not_repeated(client: TestClient, png: bytes, host: str) -> None:
    answer = client.post("/inspect", content=png, headers={"Host": host}).json()
    assert "http://localhost:8000/generate/ddpm" in answer["curl"]


def test_so_many_chunks_are_looked_at(client: TestClient, png: bytes) -> None:
    """Of a picture with nothing else, and of one whose text is behind them."""
    empty = b"\0\0\0\0teSt\0\0\0\0"
    few, many = (png[:33] + empty * number + png[33:] for number in (MAX_PARTS - 3, MAX_PARTS))
    assert client.post("/inspect", content=few).status_code == 200
    assert "carries no parameters" in refused(client.post("/inspect", content=many), "#/image")


def test_other_formats_carry_nothing(client: TestClient) -> None:
    for format_ in ("webp", "jpeg"):
        file = client.post("/generate/vae", json={"format": format_}).content
        assert "carries no parameters" in refused(client.post("/inspect", content=file), "#/image")
    document = problem(
        client.post("/inspect", json={"image": base64.b64encode(b"GIF89a").decode()}), 415, "unsupported-image"
    )
    assert document["errors"][0]["allowed"] == "PNG, JPEG, WebP"


def test_the_picture_is_required(client: TestClient) -> None:
    for body in (b"", b"{}"):
        assert "required" in refused(client.post("/inspect", content=body), "#/image")
    assert "URLs are not fetched" in refused(
        client.post("/inspect", json={"image": "http://localhost/a.png"}), "#/image"
    )
    assert "base64" in refused(client.post("/inspect", json={"image": "@@@"}), "#/image")


def test_the_bounds_are_the_settings(settings: Settings) -> None:
    small = settings.model_copy(update={"max_image_bytes": 300, "max_body_bytes": 100})
    with TestClient(create_app(small)) as client:
        png = encode_png(decode(PLAIN), json.dumps(PARAMETERS).encode())
        fitting, over = png.ljust(300, b"\0"), png.ljust(301, b"\0")
        assert [response.status_code for response in asked(client, fitting)] == [200, 200, 200, 200, 413]
        for response in asked(client, over)[:4]:
            assert "300" in problem(response, 413, "image-too-large")["detail"]
        problem(client.post("/inspect", content=png.ljust(600, b"\0")), 413, "body-too-large")
        # A picture is one value: room for it is not room for many.
        problem(client.post("/inspect", content=b'{"image": [' + b"1," * 150), 413, "body-too-large")
