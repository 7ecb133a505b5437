"""KServe's InferenceRESTClient against the service: the client itself where there is one, and what 0.21 of it sends."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.images import Pixels
from tests.e2e.dialects.conftest import native
from tests.e2e.process import ROOT, Service
from tests.service.api.conftest import assert_same

PYTHON = ROOT / ".venv" / "peers" / "kserve" / "bin" / "python"
SCRIPT = Path(__file__).with_name("kserve_client.py")
INFER = "/v2/models/ddpm/infer"

#: Bodies that InferenceRESTClient 0.21 sent, with the length of their JSON where tensors follow.
HEAD = b'{"id":"7811c243-8801-4051-a2db-4cf5fcad51ca","model_name":"ddpm","inputs":[{"name":"seed","shape":[2],'
IN_JSON = b'"datatype":"INT64","data":[7,9]}],"parameters":{"steps":3}}'
IN_BYTES = b'"datatype":"INT64","parameters":{"binary_data_size":16}}],"parameters":{"steps":3}}'
TENSOR = b"\x07\x00\x00\x00\x00\x00\x00\x00\t\x00\x00\x00\x00\x00\x00\x00"
DICTIONARY = (
    b'{"id":null,"model_name":"ddpm","inputs":[{"name":"seed","shape":[2],"datatype":"INT64","data":[7,9],'
    b'"parameters":null}],"parameters":{"steps":3},"from_grpc":false}'
)
OUTPUT = b',"outputs":[{"name":"images"}],"parameters"'
SENT: list[tuple[bytes, int | None]] = [
    (HEAD + IN_JSON, None),
    (HEAD + IN_BYTES + TENSOR, len(HEAD + IN_BYTES)),
    ((HEAD + IN_JSON).replace(b',"parameters"', OUTPUT), None),
    (DICTIONARY, None),
    (DICTIONARY.replace(b'"from_grpc"', b'"outputs":null,"from_grpc"'), None),
]


@pytest.fixture(scope="module")
def expected(service: Service) -> Pixels:
    return native(service, "ddpm", seeds=[7, 9], steps=3)


@pytest.mark.parametrize(("body", "head_length"), SENT)
def test_what_the_client_sends(service: Service, expected: Pixels, body: bytes, head_length: int | None) -> None:
    headers = {} if head_length is None else {"Inference-Header-Content-Length": str(head_length)}
    answer = service.client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    (pictures,) = answer.json()["outputs"]
    assert_same(np.array(pictures["data"], np.uint8).reshape(pictures["shape"]), expected)


def test_without_any_tensor(service: Service) -> None:
    body: dict[str, object] = {"id": "mine", "model_name": "ddpm", "inputs": [], "parameters": None, "outputs": None}
    answer = service.client.post(INFER, json=body).json()
    assert (answer["id"], answer["outputs"][0]["shape"]) == ("mine", [1, 8, 8, 1])


@pytest.mark.parametrize(
    ("data", "shape", "says"),
    [
        ([[0.5] * 4, [0.5] * 3], [2, 4], "unequal lengths"),
        ([[0.5] * 4, 1.0], [2, 4], "unequal lengths"),
        ([0.5, [1.0]], [2, 1], "valid"),
        ([[0.5] * 4] * 2, [4, 4], "does not fit 8 values"),
        ([[[[[[[[[0.5] * 4]]]]]]]], [1, 4], "valid"),
    ],
)
def test_a_nested_tensor_that_is_none(service: Service, data: Any, shape: list[int], says: str) -> None:
    tensor = {"name": "latents", "shape": shape, "datatype": "FP32", "data": data}
    answer = service.client.post("/v2/models/vae/infer", json={"inputs": [tensor]})
    assert answer.status_code == 422
    assert says in answer.json()["error"]


@pytest.mark.slow  # and so part of `make test-all`, which installs the client
@pytest.mark.skipif(not PYTHON.exists(), reason="KServe's client is not installed: make .venv/peers/kserve/.ready")
def test_the_client_itself(service: Service, expected: Pixels) -> None:
    command = [str(PYTHON), str(SCRIPT), f"http://127.0.0.1:{service.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("json", "binary", "binary answer", "named output", "dictionary"):
        assert_same(np.array(found[name], np.uint8), expected)
    latents = [[0.5, -0.5, 0.25, 0.0]]
    assert_same(np.array(found["nested"], np.uint8), native(service, "vae", latents=latents))
    assert found["ready"] == [True, True, True]
