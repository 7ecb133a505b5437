"""`tritonclient` against the service: the Open Inference Protocol over HTTP."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from service.images import Pixels
from tests.e2e.dialects.conftest import native
from tests.e2e.process import Service
from tests.service.api.conftest import assert_same

SEEDS, LABELS = [7, 9, 2**32 - 1], [2, -1, 0]


@pytest.fixture
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    connected = triton.InferenceServerClient(f"127.0.0.1:{service.port}", connection_timeout=60, network_timeout=60)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def expected(service: Service) -> Pixels:
    return native(service, "ddpm", seeds=SEEDS, class_label=[2, "none", 0], steps=3)


def tensors(*, binary: bool) -> list[triton.InferInput]:
    made = []
    for name, numbers in (("seed", SEEDS), ("class_label", LABELS)):
        tensor = triton.InferInput(name, [len(numbers)], "INT64")
        tensor.set_data_from_numpy(np.array(numbers, np.int64), binary_data=binary)
        made.append(tensor)
    return made


def test_the_server_and_its_models(service: Service, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("vae")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["name"] == "genserve"
    version = service.client.get("/models/vae").json()["version"]
    assert client.is_model_ready("vae", version)
    assert client.get_model_metadata("vae", version) == {
        "name": "vae",
        "versions": [version],
        "platform": "pytorch_torchscript",
        "inputs": [
            {"name": "seed", "datatype": "INT64", "shape": [-1]},
            {"name": "class_label", "datatype": "INT64", "shape": [-1]},
            {"name": "latents", "datatype": "FP32", "shape": [-1, 4]},
        ],
        "outputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}],
    }
    assert client.get_model_config("vae")["output"][0]["data_type"] == "TYPE_UINT8"
    assert [(each["name"], each["state"]) for each in client.get_model_repository_index()] == [
        ("ddpm", "READY"),
        ("vae", "READY"),
    ]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_pictures_are_those_of_the_native_call(
    client: triton.InferenceServerClient,
    expected: Pixels,
    compression: str | None,
    binary_input: bool,
    binary_output: bool,
) -> None:
    answer = client.infer(
        "ddpm",
        tensors(binary=binary_input),
        outputs=[triton.InferRequestedOutput("images", binary_data=binary_output)],
        request_id="mine",
        request_compression_algorithm=compression,
        parameters={"steps": 3},
    )
    assert answer.get_response()["id"] == "mine"
    assert ("data" in answer.get_output("images")) is not binary_output
    pictures = answer.as_numpy("images")
    assert pictures.dtype == np.uint8
    assert_same(pictures, expected)


def test_seeds_alone_of_a_version_and_the_outputs_by_default(
    service: Service, client: triton.InferenceServerClient
) -> None:
    version = service.client.get("/models/vae").json()["version"]
    answer = client.infer("vae", tensors(binary=True)[:1], model_version=version)
    assert (answer.get_response()["model_name"], answer.get_response()["model_version"]) == ("vae", version)
    assert_same(answer.as_numpy("images"), native(service, "vae", seeds=SEEDS))


def test_classes_alone_are_that_many_pictures(client: triton.InferenceServerClient) -> None:
    answer = client.infer("ddpm", tensors(binary=True)[1:])
    assert answer.as_numpy("images").shape == (3, 8, 8, 1)


@pytest.mark.parametrize("binary", [True, False])
def test_latents_are_what_pictures_begin_from(
    service: Service, client: triton.InferenceServerClient, binary: bool
) -> None:
    latents = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    tensor = triton.InferInput("latents", [2, 4], "FP32").set_data_from_numpy(latents, binary_data=binary)
    expected = native(service, "vae", latents=latents.tolist())
    assert_same(client.infer("vae", [tensor]).as_numpy("images"), expected)


@pytest.mark.parametrize("binary", [True, False])
def test_prompts_are_texts(studio: Service, binary: bool) -> None:
    prompts = ["a red Café", "an owl"]
    tensor = triton.InferInput("prompt", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([each.encode() for each in prompts], dtype=object), binary_data=binary)
    with triton.InferenceServerClient(f"127.0.0.1:{studio.port}", network_timeout=60) as connected:
        seed = triton.InferInput("seed", [2], "INT64").set_data_from_numpy(np.array([3, 4], np.int64))
        answer = connected.infer("sd", [tensor, seed], parameters={"steps": 3, "width": 24})
    expected = native(studio, "sd", prompt=prompts, seeds=[3, 4], steps=3, width=24)
    assert_same(answer.as_numpy("images"), expected)


def test_no_tensor_at_all_is_a_number_of_pictures(client: triton.InferenceServerClient) -> None:
    assert client.infer("vae", [], parameters={"n": 5}).as_numpy("images").shape == (5, 8, 8, 1)


def test_statistics_count_what_was_made(client: triton.InferenceServerClient) -> None:
    def read() -> tuple[int, int, int]:
        (stats,) = client.get_inference_statistics("vae")["model_stats"]
        return (
            stats["inference_count"],
            stats["inference_stats"]["success"]["count"],
            stats["inference_stats"]["fail"]["count"],
        )

    pictures, successes, failures = read()
    client.infer("vae", tensors(binary=True))
    with pytest.raises(InferenceServerException):
        client.infer("vae", [], parameters={"steps": 4})
    assert read() == (pictures + 3, successes + 1, failures + 1)
    assert len(client.get_inference_statistics()["model_stats"]) == 2


@pytest.mark.parametrize(
    ("model", "parameters", "version", "says"),
    [
        ("nothing", {}, "", "There is no model 'nothing'"),
        ("vae", {}, "1", "vae is not served in that version"),
        ("vae", {"steps": 4}, "", "steps: is not supported by vae"),
        (
            "ddpm",
            {"step": 4},
            "",
            "parameters/step: there is no such field (did you mean steps?). Allowed: binary_data_output, ",
        ),
    ],
)
def test_an_error_is_its_sentence(
    client: triton.InferenceServerClient, model: str, parameters: dict[str, object], version: str, says: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, tensors(binary=True), model_version=version, parameters=parameters)
    assert caught.value.message().startswith(says)
