"""`huggingface_hub`'s InferenceClient against the service."""

import base64
import io

import numpy as np
import pytest
from huggingface_hub import ImageToImageTargetSize, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from service.images import Pixels
from tests.e2e.dialects.conftest import native
from tests.e2e.process import Service
from tests.service.api.conftest import assert_same


def connect(service: Service, model: str) -> InferenceClient:
    address = f"http://127.0.0.1:{service.port}/generate/{model}"
    return InferenceClient(model=address, provider="hf-inference", token="none", timeout=60)


def pixels(image: Image.Image) -> Pixels:
    """(1, height, width, 1) of a grey picture."""
    assert image.mode == "L"
    return np.asarray(image)[None, :, :, None]


def test_a_prompt_is_a_class(service: Service) -> None:
    image = connect(service, "ddpm").text_to_image(
        "Bag", num_inference_steps=3, guidance_scale=2.0, seed=7, scheduler="ddim", width=16, height=16
    )
    expected = native(service, "ddpm", class_label="bag", steps=3, guidance_scale=2.0, seed=7, solver="ddim", scale=2)
    assert_same(pixels(image), expected)


def test_no_prompt_is_no_class(service: Service) -> None:
    image = connect(service, "vae").text_to_image("", seed=5)
    assert_same(pixels(image), native(service, "vae", class_label="none", seed=5))


def test_fields_of_the_service_go_along(service: Service) -> None:
    image = connect(service, "vae").text_to_image("", seed=5, extra_body={"class_label": 1, "n": 4, "layout": "strip"})
    assert image.size == (42, 12)


def test_image_to_image(service: Service) -> None:
    client = connect(service, "ddpm")
    file = io.BytesIO()
    Image.linear_gradient("L").resize((8, 8)).save(file, format="PNG")
    picture = file.getvalue()
    image = client.image_to_image(
        picture,
        prompt="bag",
        num_inference_steps=4,
        target_size=ImageToImageTargetSize(height=16, width=16),
        strength=0.5,
        seed=7,
    )
    in_base64 = base64.b64encode(picture).decode()
    expected = native(service, "ddpm", image=in_base64, class_label="bag", steps=4, strength=0.5, seed=7, scale=2)
    assert_same(pixels(image), expected)
    assert client.image_to_image(picture).size == (8, 8)  # sent as it is, without a Content-Type


def test_the_health_of_a_model(service: Service) -> None:
    assert connect(service, "vae").health_check()
    assert not connect(service, "nothing").health_check()


@pytest.mark.parametrize(
    ("model", "prompt", "parameters", "status", "says"),
    [
        ("nothing", "", {}, 404, "There is no model 'nothing'"),
        ("vae", "a bag, please", {}, 400, "0 t-shirt, 1 trouser, 2 bag"),
        ("vae", "", {"num_inference_steps": 4}, 422, "is not supported by vae"),
        ("vae", "", {"width": 9}, 400, "8x8 times an integer"),
    ],
)
def test_an_error_says_what_is_wrong(
    service: Service, model: str, prompt: str, parameters: dict[str, int], status: int, says: str
) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        connect(service, model).text_to_image(prompt, **parameters)  # type: ignore[arg-type]
    assert caught.value.response.status_code == status
    assert says in str(caught.value)
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
