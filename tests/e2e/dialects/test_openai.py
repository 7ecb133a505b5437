"""The `openai` package against the service."""

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from service.images import Pixels
from tests.e2e.dialects.conftest import native
from tests.e2e.process import Service, serving
from tests.service.api.conftest import assert_other, assert_same, decode

#: Seconds of work.
LONG = {"n": 64, "steps": 1000}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


#: A ramp, and a black picture whose right half is transparent.
PICTURE = png(Image.linear_gradient("L").resize((8, 8)))
MASK = png(
    Image.merge("LA", (Image.new("L", (8, 8)), Image.fromarray(np.repeat([[255] * 4 + [0] * 4], 8, 0).astype("u1"))))
)


def connect(service: Service, **options: object) -> openai.OpenAI:
    base_url = f"http://127.0.0.1:{service.port}/v1"
    return openai.OpenAI(base_url=base_url, api_key="none", timeout=60.0, **options)  # type: ignore[arg-type]


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with connect(service, max_retries=0) as connected:
        yield connected


def to_base64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def pixels(b64_json: str | None) -> Pixels:
    assert b64_json is not None
    return decode(base64.b64decode(b64_json))


def test_pictures_are_those_of_the_native_call(service: Service, client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="ddpm", prompt="Bag", n=2, size="16x16", extra_body={"seed": 7, "steps": 3, "guidance_scale": 2.0}
    )
    expected = native(service, "ddpm", n=2, seed=7, steps=3, guidance_scale=2.0, class_label="bag", scale=2)
    assert answer.data is not None
    assert (answer.size, answer.output_format, answer.background) == ("16x16", "png", "opaque")
    assert abs(answer.created - time.time()) < 60
    assert [picture.revised_prompt for picture in answer.data] == ["bag", "bag"]
    assert [picture.model_dump()["seed"] for picture in answer.data] == [7, 8]
    assert_same(np.stack([pixels(picture.b64_json) for picture in answer.data]), expected)


def test_an_empty_prompt_is_no_class_and_a_number_is_one(service: Service, client: openai.OpenAI) -> None:
    for prompt, label, told in (("", "none", ""), ("1", 1, "trouser")):
        (picture,) = client.images.generate(model="vae", prompt=prompt, extra_body={"seed": 3}).data or []
        assert picture.revised_prompt == told
        assert_same(pixels(picture.b64_json)[None], native(service, "vae", seed=3, class_label=label))


@pytest.mark.parametrize("output_format", ["webp", "jpeg"])
def test_output_formats(client: openai.OpenAI, output_format: Literal["webp", "jpeg"]) -> None:
    answer = client.images.generate(
        model="vae",
        prompt="bag",
        size="64x64",
        output_format=output_format,
        output_compression=80,
    )
    assert answer.output_format == output_format
    (picture,) = answer.data or []
    with Image.open(io.BytesIO(base64.b64decode(picture.b64_json or ""))) as image:
        assert (image.format, image.size) == (output_format.upper(), (64, 64))


def test_a_stream_has_partial_images_and_then_the_picture(service: Service, client: openai.OpenAI) -> None:
    with client.images.generate(
        model="ddpm", prompt="bag", stream=True, partial_images=2, extra_body={"seed": 7, "steps": 8}
    ) as stream:
        *partial, last = list(stream)
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 2
    assert [getattr(event, "partial_image_index", None) for event in partial] == [0, 1]
    assert last.type == "image_generation.completed"
    assert (last.size, last.output_format) == ("8x8", "png")
    expected = native(service, "ddpm", seed=7, steps=8, class_label="bag")
    assert_same(pixels(last.b64_json)[None], expected)
    assert_other(*(pixels(event.b64_json) for event in partial))


def test_a_stream_of_a_model_without_steps_has_its_pictures_only(service: Service, client: openai.OpenAI) -> None:
    with client.images.generate(
        model="vae", prompt="bag", n=2, stream=True, partial_images=3, extra_body={"seed": 4}
    ) as stream:
        events = {event.model_dump()["index"]: event for event in stream}
    assert {event.type for event in events.values()} == {"image_generation.completed"}
    shown = np.stack([pixels(events[index].b64_json) for index in (0, 1)])
    assert_same(shown, native(service, "vae", n=2, seed=4, class_label="bag"))


def test_leaving_a_stream_stops_its_work(service: Service, client: openai.OpenAI) -> None:
    made = service.sample("images_total")
    with client.images.generate(
        model="ddpm", prompt="", n=64, stream=True, partial_images=1000, extra_body={"steps": 1000}
    ) as stream:
        assert next(iter(stream)).type == "image_generation.partial_image"
    service.wait_until_idle()
    assert service.sample("images_total") < made + 64


def test_an_error_within_a_stream_is_raised(client: openai.OpenAI) -> None:
    with (
        client.images.generate(
            model="ddpm", prompt="", n=64, stream=True, extra_body={"steps": 1000, "timeout_ms": 1}
        ) as stream,
        pytest.raises(openai.APIError) as caught,
    ):
        list(stream)
    assert caught.value.code == "deadline-exceeded"
    assert "not ready within" in caught.value.message


def test_a_picture_is_edited(service: Service, client: openai.OpenAI) -> None:
    answer = client.images.edit(
        model="ddpm", image=PICTURE, prompt="bag", n=2, size="16x16", extra_body={"seed": 7, "strength": 0.5}
    )
    expected = native(service, "ddpm", image=to_base64(PICTURE), class_label="bag", n=2, seed=7, strength=0.5, scale=2)
    assert [picture.revised_prompt for picture in answer.data or []] == ["bag", "bag"]
    assert_same(np.stack([pixels(picture.b64_json) for picture in answer.data or []]), expected)


def test_what_a_mask_leaves_transparent_is_made_anew(service: Service, client: openai.OpenAI) -> None:
    answer = client.images.edit(model="ddpm", image=[PICTURE], mask=MASK, prompt="", extra_body={"seed": 7})
    (edited,) = (pixels(picture.b64_json) for picture in answer.data or [])
    assert_same(edited[:, :4], decode(PICTURE)[:, :4])
    assert_other(edited[:, 4:], decode(PICTURE)[:, 4:])
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.images.edit(model="ddpm", image=PICTURE, mask=PICTURE, prompt="")
    assert caught.value.param == "mask"


def test_a_transparent_picture_is_its_own_mask(client: openai.OpenAI) -> None:
    (edited,) = client.images.edit(model="ddpm", image=MASK, prompt="", extra_body={"seed": 7}).data or []
    assert (pixels(edited.b64_json)[:, :4] == 0).all()
    assert (pixels(edited.b64_json)[:, 4:] != 255).any()


def test_an_edit_as_a_stream(client: openai.OpenAI) -> None:
    with client.images.edit(
        model="ddpm", image=PICTURE, prompt="bag", stream=True, partial_images=1, extra_body={"steps": 8, "seed": 7}
    ) as stream:
        partial, completed = list(stream)
    assert (partial.type, completed.type) == ("image_edit.partial_image", "image_edit.completed")
    (plain,) = (
        client.images.edit(model="ddpm", image=PICTURE, prompt="bag", extra_body={"steps": 8, "seed": 7}).data or []
    )
    assert_same(pixels(completed.b64_json), pixels(plain.b64_json))


def test_two_pictures_cannot_be_edited_into_one(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.images.edit(model="ddpm", image=[PICTURE, PICTURE], prompt="")
    assert caught.value.param == "image"


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["ddpm", "vae"]
    model = client.models.retrieve("vae")
    assert model == models[1]
    assert (model.object, model.created) == ("model", 1767225600)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dall-e-2")


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="vea", prompt="bag")
    assert caught.value.code == "unknown-model"
    assert "Did you mean vae?" in caught.value.message


def test_a_wrong_field_is_told_with_code_and_param(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.images.generate(model="vae", prompt="bag", extra_body={"steps": 5})
    error = caught.value
    assert (error.code, error.param, error.type) == ("invalid-field", "steps", "invalid_request_error")
    assert "steps: is not supported by vae" in error.message
    assert error.request_id == error.response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prompt", "a photograph of a bag", "0 t-shirt, 1 trouser, 2 bag"),
        ("size", "1024x1024", "8x8 times an integer up to 32"),
        ("response_format", "url", "no URL"),
    ],
)
def test_what_cannot_be_had_is_a_bad_request(client: openai.OpenAI, field: str, value: str, says: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"model": "vae", "prompt": "bag", field: value})  # type: ignore[call-overload]
    assert caught.value.param == field
    assert says in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_retry_after_is_obeyed(crowded: Service, stream: bool) -> None:
    job = crowded.client.post("/generate/ddpm", json=LONG, headers={"Prefer": "respond-async"}).json()["urls"]
    seen: list[tuple[float, httpx2.Response]] = []

    def note(response: httpx2.Response) -> None:
        seen.append((time.monotonic(), response))
        if len(seen) == 1:
            response.read()
            crowded.client.post(job["cancel"])

    with (
        httpx2.Client(event_hooks={"response": [note]}) as transport,
        connect(crowded, max_retries=2, http_client=transport) as client,
    ):
        answer = client.images.generate(model="ddpm", prompt="bag", stream=stream, extra_body={"steps": 2})
        if not isinstance(answer, openai.types.ImagesResponse):
            assert [event.type for event in answer] == ["image_generation.completed"]
    (refused_at, refused), (answered_at, answered) = seen
    assert (refused.status_code, refused.json()["code"]) == (429, "share-exceeded")
    assert answered.status_code == 200
    retry_after = int(refused.headers["retry-after"])
    assert 1 <= retry_after <= answered_at - refused_at


@pytest.fixture(scope="module")
def crowded(tiny_weights: Path) -> Iterator[Service]:
    """A service with room for one job, and for one request of a client at a time."""
    with serving(
        tiny_weights, engine_threads=1, max_bucket=8, max_queue_ms=1e6, client_share=1e-6, max_jobs=1
    ) as running:
        yield running
