"""What tritonclient cannot be brought to send; the rest is in tests/e2e/dialects."""

import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from tests.service.artefacts import write_one_shot
from tests.service.conftest import settings_of

INFER = "/v2/models/vae/infer"
HEAD_LENGTH = "Inference-Header-Content-Length"


def seeds(*numbers: int, **changed: object) -> dict[str, Any]:
    return {"inputs": [{"name": "seed", "shape": [len(numbers)], "datatype": "INT64", "data": [*numbers], **changed}]}


def error(response: httpx2.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    sentence: str = response.json()["error"]
    return sentence


def test_nothing_is_asked_for(client: TestClient) -> None:
    answer = client.post(INFER).json()
    assert answer.keys() == {"model_name", "model_version", "outputs"}
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("images", "UINT8", [1, 8, 8, 1])
    assert len(output["data"]) == 64


def test_the_seeds_are_in_the_header_too(client: TestClient) -> None:
    response = client.post(INFER, json=seeds(5, 3))
    assert response.headers["x-seed"] == "5, 3"
    assert response.json()["outputs"][0]["shape"] == [2, 8, 8, 1]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (seeds(1, name="noise"), "input should be 'seed', 'class_label', 'prompt', 'negative_prompt' or 'latents'"),
        (seeds(1, datatype="FP32"), "Allowed: INT64"),
        (seeds(1, 2, shape=[3]), "does not fit 2 values"),
        (seeds(1, shape=[]), "shape"),
        (seeds(1, 2, shape=[2, 1]), "does not fit 2 values"),
        (seeds(1.5), "not an integer"),  # type: ignore[arg-type]
        (seeds(-1), "greater than or equal to 0"),
        (seeds(2**32), "less than 4294967296"),
        (seeds(2**63), "too large"),
        (seeds(1, data=None), "one of the two"),
        (seeds(1, parameters={"binary_data_size": 8}), "one of the two"),
        (seeds(1, data=None, parameters={"binary_data_size": 8}), "has fewer than 8 bytes behind the JSON"),
        (seeds(1, data=["1"]), "has a value that is not an integer"),
        ({"inputs": seeds(1)["inputs"] * 2}, "more than once"),
        ({"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [1]}]}, "not a text"),
        (
            {"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["x"]}]},
            "(did you mean class_label?)",
        ),
        (seeds(1) | {"outputs": [{"name": "picture"}]}, "'images'"),
        (seeds(1) | {"parameters": {"seed": 1}}, "there is no such field"),
        ({"inputs": [{"name": "latents", "shape": [1, 4], "datatype": "FP32", "data": [1e300, 0, 0, 0]}]}, "latents"),
        ({"inputs": [{"name": "latents", "shape": [1, 3], "datatype": "FP32", "data": [0, 0, 0]}]}, "latents"),
        ({"inputs": [{"name": "class_label", "shape": [1], "datatype": "INT64", "data": [3]}]}, "no such class"),
    ],
)
def test_an_invalid_tensor_is_rejected_with_its_reason(client: TestClient, body: dict[str, Any], says: str) -> None:
    assert says in error(client.post(INFER, json=body), 422)


def test_a_query_is_rejected(client: TestClient) -> None:
    answer = client.post("/v2/models/vae/infer", params={"seed": 7}, json={})
    assert answer.status_code == 422
    assert "seed" in answer.json()["error"]


def test_a_body_that_is_not_json(client: TestClient) -> None:
    assert "not JSON" in error(client.post(INFER, content=b"{"), 400)


@pytest.mark.parametrize("length", ["-1", "1000", "x", "", "99999999999", "\N{SUPERSCRIPT TWO}"])
def test_an_invalid_length_is_rejected(client: TestClient, length: str) -> None:
    response = client.post(INFER, content=b"{}", headers={HEAD_LENGTH.encode(): length.encode("latin-1")})
    assert HEAD_LENGTH in error(response, 400)


@pytest.mark.parametrize(("size", "rest"), [(8, 16), (16, 8), (12, 12)])
def test_binary_tensors_are_all_of_what_follows(client: TestClient, size: int, rest: int) -> None:
    head = json.dumps(seeds(0, data=None, parameters={"binary_data_size": size})).encode()
    response = client.post(INFER, content=head + bytes(rest), headers={HEAD_LENGTH: str(len(head))})
    assert "behind the JSON" in error(response, 422)


def test_binary_numbers_are_little_endian(client: TestClient) -> None:
    head = json.dumps(seeds(0, data=None, parameters={"binary_data_size": 8})).encode()
    response = client.post(INFER, content=head + struct.pack("<q", 258), headers={HEAD_LENGTH: str(len(head))})
    assert response.headers["x-seed"] == "258"


@pytest.mark.parametrize(
    ("encoding", "body", "status", "says"),
    [
        ("br", b"{}", 400, "gzip or deflate"),
        ("gzip", b"{}", 400, "not valid gzip data"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1], 400, "does not end"),
        ("deflate", zlib.compress(b"{}") + b"{}", 400, "does not end"),
        ("gzip", gzip.compress(bytes(10_000_000), mtime=0), 413, "larger than the limit of 65536 bytes"),
    ],
)
def test_a_compressed_body_is_checked_and_bounded(
    client: TestClient, encoding: str, body: bytes, status: int, says: str
) -> None:
    assert says in error(client.post(INFER, content=body, headers={"Content-Encoding": encoding}), status)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("GET", "/v2/models/nothing/ready", 404),
        ("GET", "/v2/models/vae/versions/1/ready", 404),
    ],
)
def test_every_error_is_one_sentence(client: TestClient, method: str, path: str, status: int) -> None:
    error(client.request(method, path), status)


def test_the_index_of_the_repository_can_be_of_what_is_ready_only(client: TestClient) -> None:
    for body in (b"", b'{"ready": true}'):
        models = client.post("/v2/repository/index", content=body).json()
        assert [(model["name"], model["state"]) for model in models] == [("ddpm", "READY"), ("vae", "READY")]
    error(client.post("/v2/repository/index", content=b'{"readi": true}'), 422)


def test_a_refused_model_is_unavailable(tmp_path: Path) -> None:
    write_one_shot(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{}")
    settings = settings_of(tmp_path)
    with TestClient(create_app(settings)) as client:
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/models/vae/ready").status_code == 200
        assert "broken could not be loaded: " in error(client.get("/v2/models/broken/ready"), 503)
        (refused,) = client.post("/v2/repository/index").json()[1:]
        assert (refused["name"], refused["state"]) == ("broken", "UNAVAILABLE")
        assert refused["reason"]
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["vae"]
