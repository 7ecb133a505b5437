"""One service for the tests that only ask it, and how its answers are read."""

import asyncio
import base64
import io
import json
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import Message, Receive

from service.app import create_app
from service.contract.manifest import read_manifest, write_manifest
from service.images import Pixels, encode_png
from service.request_info import info_of
from service.settings import Settings
from tests.service.api.documented import checker
from tests.service.api.linked_service import start_linked
from tests.service.artefacts import write_autoencoder, write_diffusion, write_latent_diffusion, write_one_shot
from tests.service.conftest import settings_of

PROBLEM_JSON = "application/problem+json"
NPY = {"Accept": "application/x-npy"}
JSON = {"Accept": "application/json"}
GIF = {"Accept": "image/gif"}

#: The members of an error.
PROBLEM = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors", "error"}

MODELS = ("vae", "ddpm")

#: Thousands of calls of the tiny network: for requests that a test gives up before they are done.
LONG = {"n": 64, "steps": 1000}


@pytest.fixture(scope="session", autouse=True)
def _engine_of_the_service() -> Iterator[None]:
    """The engine of services without one of their own: of the same process, or behind a socket."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("GENSERVE_TEST_LINKED"):
            patch.setattr("service.app.start_inline", start_linked)
        yield


@pytest.fixture(scope="package")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A running service with a one-shot model, vae, and a diffusion, ddpm."""
    weights = tmp_path_factory.mktemp("service") / "weights"
    write_one_shot(weights)
    write_diffusion(weights)
    settings = settings_of(weights)
    with TestClient(create_app(settings)) as running:
        running.event_hooks = {"response": [checker(running.get("/openapi.json").json())]}
        yield running


@pytest.fixture(scope="package")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A running service with a model for every task: vae, ae (an autoencoder), gan, ddpm and ldm."""
    weights = tmp_path_factory.mktemp("tasks") / "weights"
    write_autoencoder(weights)
    write_autoencoder(weights, "ae", family="autoencoder", capabilities=("encode", "decode"), latents=None)
    write_one_shot(weights, "gan", family="gan")
    write_diffusion(weights)
    write_latent_diffusion(weights)
    settings = settings_of(weights)
    with TestClient(create_app(settings)) as running:
        running.event_hooks = {"response": [checker(running.get("/openapi.json").json())]}
        yield running


@pytest.fixture
def all_tasks(tmp_path: Path) -> Settings:
    """Of a service with vae, ddpm and ldm, which begin from uploads in every way that there is."""
    weights = tmp_path / "weights"
    write_autoencoder(weights)
    write_diffusion(weights)
    write_latent_diffusion(weights)
    return settings_of(weights)


def some_picture(seed: int = 0) -> Pixels:
    """A picture (8, 8, 1) of any grey levels."""
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 1), dtype=np.uint8)


def base64_png(picture: Pixels) -> str:
    """A picture as a field of JSON."""
    return base64.b64encode(encode_png(picture)).decode()


def change_manifest(model: Path, **fields: object) -> None:
    """Write other values into the manifest of a model's folder."""
    write_manifest(model, read_manifest(model).model_copy(update=fields))


def to_body(fields: Mapping[str, object]) -> bytes:
    """A body of JSON."""
    return json.dumps(fields).encode()


def decode(png: bytes) -> Pixels:
    """(height, width, channel) of a PNG."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def load(npy: bytes) -> Pixels:
    """The array of an .npy file."""
    array = np.load(io.BytesIO(npy), allow_pickle=False)
    assert array.dtype == np.uint8
    return np.asarray(array, np.uint8)


def pictures(client: TestClient, model: str, **fields: object) -> Pixels:
    """(n, height, width, channel) that the service makes of ``fields``."""
    response = client.post(f"/generate/{model}", json=fields, headers=NPY)
    assert response.status_code == 200, response.text
    return load(response.content)


def frames(client: TestClient, **fields: object) -> Pixels:
    """(frames, height, width, channel) of an interpolation."""
    response = client.post("/interpolate", json=fields, headers=NPY)
    assert response.status_code == 200, response.text
    return load(response.content)


def assert_same(actual: Pixels, expected: Pixels) -> None:
    """The same pictures within one grey level."""
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected.astype(int)).max() <= 1


def assert_other(actual: Pixels, expected: Pixels) -> None:
    """Pictures that nobody would take for the same ones."""
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected.astype(int)).max() > 3


def problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refusal."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM_JSON
    assert "Traceback" not in response.text
    assert ".py" not in response.text
    document: dict[str, Any] = response.json()
    assert document.keys() == PROBLEM
    assert (document["status"], document["code"]) == (status, code)
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["instance"] == f"/requests/{document['request_id']}"
    assert document["error"].keys() == {"message", "type", "param", "code"}
    assert (document["error"]["message"], document["error"]["code"]) == (document["detail"], code)
    assert document["detail"].endswith(".") or not document["errors"]
    for error in document["errors"]:
        assert error.keys() <= {"pointer", "message", "allowed"}
        assert re.match(r"#(/|$)", error["pointer"])
    return document


def refused(response: httpx2.Response, pointer: str) -> str:
    """What a refusal says of the one field that is wrong, with what is allowed there."""
    document = problem(response, 422, "invalid-field")
    assert [error["pointer"] for error in document["errors"]] == [pointer]
    name = pointer.removeprefix("#/").removeprefix("#") or "body"
    assert document["detail"].startswith(f"{name}: ")
    error = document["errors"][0]
    return " ".join([error["message"], error.get("allowed", "")])


@dataclass
class Told:
    """An event as it was sent."""

    id: int
    name: str
    data: dict[str, Any]


def read_events(body: bytes) -> list[Told]:
    """The events of an answer as text/event-stream; comments are left out."""
    told = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        if block != ":":
            id, name, data = block.split("\n")
            told.append(
                Told(
                    int(id.removeprefix("id: ")),
                    name.removeprefix("event: "),
                    json.loads(data.removeprefix("data: ")),
                )
            )
    return told


Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read_series(text: str) -> Series:
    """Every sample of an exposition by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def series(client: TestClient) -> Series:
    """Every sample of /metrics by name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    return read_series(response.text)


def value(samples: Series, name: str, **labels: str) -> float:
    """One sample; the prefix that all names share is added."""
    return samples[f"genserve_{name}", frozenset(labels.items())]


@dataclass
class Answer:
    """What an application sent, and in messages of which types."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    messages: list[str] = field(default_factory=list)


async def ask(
    app: FastAPI,
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    query: str = "",
    headers: Mapping[str, str] | None = None,
    client: str | None = "127.0.0.1",
    leaves: asyncio.Event | None = None,
    receive: Receive | None = None,
) -> Answer:
    """One request of ``client``, straight to the application; it leaves when ``leaves`` is set, or says ``receive``."""
    scope: dict[str, object] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), text.encode()) for name, text in (headers or {}).items()],
        "client": client and (client, 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    answer = Answer()

    async def take() -> Message:
        return messages.pop()

    async def leave(leaves: asyncio.Event) -> None:
        await leaves.wait()
        info_of(scope).disconnect.notify()

    async def send(message: Message) -> None:
        answer.messages.append(message["type"])
        if "status" in message:
            answer.status = message["status"]
            answer.headers = {name.decode(): text.decode() for name, text in message["headers"]}
        answer.body += message.get("body", b"")

    leaving = leaves and asyncio.create_task(leave(leaves))
    try:
        await app(scope, receive or take, send)
    finally:
        if leaving:
            leaving.cancel()
    return answer


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[FastAPI]:
    """A started application, on the running event loop."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


async def rows_under_way(app: FastAPI) -> float:
    """Rows that are queued or live."""
    samples = read_series((await ask(app, "/metrics", method="GET")).body.decode())
    gauges = {"genserve_queued_rows", "genserve_live_rows"}
    return sum(number for (name, _), number in samples.items() if name in gauges)


async def accepted(app: FastAPI) -> None:
    """Wait until a request has rows under way."""
    async with asyncio.timeout(60):  # a request that was refused has none
        while not await rows_under_way(app):
            await asyncio.sleep(0)


async def idle(app: FastAPI) -> None:
    """Wait until no rows are under way; a test that waits for ever fails by its timeout."""
    while await rows_under_way(app):
        await asyncio.sleep(0)
