import logging

import pytest
import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from torch import Tensor

from service.api.http.endpoint import App, route
from service.api.http.openapi import Operation
from service.api.state import deployment_of, state_of
from service.app import create_app
from service.sampling.noise import RowNoise
from service.settings import Settings
from tests.service.api.conftest import problem, series, value
from tests.service.artefacts import LATENT_SHAPE, Decode, write_one_shot


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/fails/vae", "vae"),
        ("/fails", "_unknown"),
        ("/fails-as-endpoint/vae", "vae"),
        ("/fails-as-endpoint", "_unknown"),
    ],
)
def test_what_nobody_expected_is_a_plain_500_and_a_logged_traceback(
    settings: Settings, caplog: pytest.LogCaptureFixture, path: str, label: str
) -> None:
    app = create_app(settings)
    assert isinstance(app, App)

    @app.get("/fails/{model}")
    async def fails_for_a_model(request: Request) -> Response:
        deployment_of(request, state_of(request), request.path_params["model"])
        raise RuntimeError("the secret")

    @app.get("/fails")
    async def fails(request: Request) -> Response:
        raise RuntimeError("the secret")

    app.add_routes(
        [
            route("/fails-as-endpoint/{model}", {"GET": Operation(fails_for_a_model)}),
            route("/fails-as-endpoint", {"GET": Operation(fails)}),
        ]
    )

    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.get(path)
        document = problem(response, 500, "internal")
        assert "secret" not in response.text
        assert document["title"] == "Internal Server Error"
        assert value(series(client), "errors_total", model=label, reason="internal") == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info
    assert "the secret" in str(record.exc_info[1])


class Brittle(Decode):
    """As Decode, but raises for a latent whose first number is over 2.5, and gives NaN for one below -2.5."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        if bool((z[:, 0] > 2.5).any()):
            raise RuntimeError("brittle")
        images = torch.tanh(z @ self.weight + 0.1 * label[:, None]).reshape(-1, 1, 8, 8)
        return torch.where((z[:, 0] < -2.5)[:, None, None, None], torch.full_like(images, float("nan")), images)


@pytest.mark.parametrize("wanted", ["raises", "not finite"])
def test_a_picture_that_cannot_be_computed(settings: Settings, wanted: str) -> None:
    write_one_shot(settings.weights_dir, "brittle", Brittle())
    first = {seed: float(RowNoise(seed).draw(LATENT_SHAPE)[0]) for seed in range(1000)}
    seed = max(first, key=lambda seed: first[seed]) if wanted == "raises" else min(first, key=lambda seed: first[seed])
    assert abs(first[seed]) > 2.5
    with TestClient(create_app(settings)) as client:
        response = client.post("/generate/brittle", json={"seed": seed})
        problem(response, 500, "compute-failed")
        assert "brittle" not in response.text
        assert client.post("/generate/brittle", json={"seed": 0}).status_code == 200
        samples = series(client)
        assert value(samples, "errors_total", model="brittle", reason="compute-failed") == 1
        assert value(samples, "images_total", model="brittle") == 1
        assert value(samples, "live_rows", model="brittle") == 0


def test_a_problem_says_its_title_in_words(client: TestClient) -> None:
    document = problem(client.post("/generate/nope"), 404, "unknown-model")
    assert document["type"] == "about:blank"
    assert document["title"] == "Not Found"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param"),
    [
        ("/generate/nope", {}, 404, "invalid_request_error", None),
        ("/generate/vae", {"n": 0}, 422, "invalid_request_error", "n"),
        ("/interpolate", {"model": "vae", "to": {"seed": -1}}, 422, "invalid_request_error", "to/seed"),
        ("/generate/vae", [], 422, "invalid_request_error", None),
    ],
)
def test_an_error_says_the_same_to_openais_clients(
    client: TestClient, path: str, body: object, status: int, kind: str, param: str | None
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["param"]) == (kind, param)


@pytest.mark.parametrize(("path", "method", "status"), [("/v2/nope", "GET", 404), ("/v2/nope/nope", "POST", 404)])
def test_an_error_of_the_open_inference_protocol_is_a_text(
    client: TestClient, path: str, method: str, status: int
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.json() == {"error": "Not Found"}


def test_an_error_tells_its_model_and_is_not_kept(client: TestClient) -> None:
    for path, body in (("/generate/vae", {"n": 0}), ("/interpolate", {"model": "vae", "class_label": "x"})):
        headers = client.post(path, json=body).headers
        assert headers["x-model"] == "vae"
        assert headers["x-model-version"] == client.get("/models/vae").json()["version"]
        assert (headers["cache-control"], headers["vary"]) == ("no-store", "Accept")
    assert "x-model" not in client.post("/generate/nope").headers
