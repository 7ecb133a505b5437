import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.redis_server import shared_server
from tests.service.api.conftest import (
    JSON,
    LONG,
    NPY,
    accepted,
    ask,
    assert_same,
    idle,
    load,
    pictures,
    problem,
    read_events,
    running,
    series,
    to_body,
    value,
)
from tests.service.api.documented import checker
from tests.service.artefacts import POISON, PoisonDecode, write_diffusion, write_one_shot
from tests.service.conftest import settings_of

KINDS = ("memory", "sqlite", "redis")
ASYNC = {"Prefer": "respond-async"}
FIELDS: dict[str, Any] = {"n": 3, "steps": 30, "seed": 5}


@pytest.fixture(scope="module", params=KINDS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A running service with vae and ddpm, on each store."""
    folder = tmp_path_factory.mktemp("service")
    write_one_shot(folder / "weights")
    write_diffusion(folder / "weights")
    settings = settings_of(folder / "weights", store=store_of(request.param, folder))
    with TestClient(create_app(settings)) as running:
        running.event_hooks = {"response": [checker(running.get("/openapi.json").json())]}
        yield running


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    """Of a service on each store."""
    return settings.model_copy(update={"store": store_of(request.param, tmp_path)})


def store_of(kind: str, folder: Path) -> str:
    """The setting."""
    if kind == "redis":
        return shared_server().url(folder)
    return kind if kind == "memory" else f"sqlite:///{folder}/jobs.db"


def make(client: TestClient, model: str = "ddpm", **fields: object) -> dict[str, Any]:
    """A job that has ended."""
    job: dict[str, Any] = client.post(f"/generate/{model}", json=fields, headers=ASYNC).json()
    client.get(job["urls"]["result"], headers={"Prefer": "wait=60"})
    return job


async def begin(app: FastAPI, **fields: object) -> dict[str, Any]:
    """A job that has rows under way."""
    job: dict[str, Any] = json.loads((await ask(app, "/generate/ddpm", to_body(fields), headers=ASYNC)).body)
    await accepted(app)
    return job


async def get(app: FastAPI, path: str, **headers: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((await ask(app, path, method="GET", headers=headers)).body)
    return document


def test_a_job_that_has_ended(client: TestClient) -> None:
    job = make(client, **FIELDS)
    ended = client.get(job["urls"]["self"]).json()
    known = {name: ended[name] for name in ("status", "progress", "step", "steps", "queue_position", "eta_ms", "error")}
    assert known == {
        "status": "succeeded",
        "progress": 1.0,
        "step": 30,
        "steps": 30,
        "queue_position": 0,
        "eta_ms": 0.0,
        "error": None,
    }
    assert ended["id"] == job["id"]
    one_shot = make(client, "vae")
    assert client.get(one_shot["urls"]["self"]).json()["steps"] == 0


@pytest.mark.parametrize(
    ("asked", "accept", "expected"),
    [
        ({}, {}, "image/png"),
        ({}, {"Accept": "*/*"}, "image/png"),
        ({"format": "webp", "quality": 50}, {}, "image/webp"),
        ({"format": "webp", "quality": 50}, {"Accept": "image/*"}, "image/webp"),
        ({"format": "webp", "quality": 50}, {"Accept": "image/png"}, "image/png"),
        ({"layout": "strip"}, {"Accept": "image/gif"}, "image/gif"),
        ({"format": "gif"}, JSON, "application/json"),
        ({}, NPY, "application/x-npy"),
        ({}, {"Accept": "application/zip"}, "application/zip"),
    ],
)
def test_a_result_has_the_form_that_is_asked_for(
    client: TestClient, asked: dict[str, Any], accept: dict[str, str], expected: str
) -> None:
    job = make(client, n=4, seed=3, **asked)
    for _ in range(2):
        response = client.get(job["urls"]["result"], headers=accept)
        assert response.status_code == 200
        assert response.headers["content-type"] == expected
        assert response.headers["x-seed"] == "3, 4, 5, 6"
        assert response.headers["x-model"] == "ddpm"


@pytest.mark.parametrize("fields", [{"layout": "film"}, {"n": 3, "layout": "strip"}, {"n": 3, "layout": "sprite"}])
def test_a_result_in_another_form_shows_what_was_asked_for(client: TestClient, fields: dict[str, Any]) -> None:
    job = make(client, steps=4, seed=3, **fields)
    forms = [
        client.get(job["urls"]["result"], headers={"Accept": media}).content for media in ("image/png", "image/webp")
    ]
    first, other = (Image.open(io.BytesIO(form)).size for form in forms)
    assert first == other


def test_a_result_is_what_a_plain_request_gets(client: TestClient) -> None:
    job = make(client, **FIELDS)
    assert_same(load(client.get(job["urls"]["result"], headers=NPY).content), pictures(client, "ddpm", **FIELDS))
    problem(client.get(job["urls"]["result"], headers={"Accept": "text/plain"}), 406, "not-acceptable")


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ({}, set()),
        ({"preview_every": 10}, {"x0"}),
        ({"preview_every": 10, "preview_kind": "both"}, {"x0", "xt"}),
    ],
)
def test_previews_of_a_job_are_those_that_were_asked_for(
    client: TestClient, asked: dict[str, Any], kinds: set[str]
) -> None:
    job = make(client, n=2, steps=40, seed=1, **asked)
    told = read_events(client.get(job["urls"]["events"]).content)
    previews = [event.data for event in told if event.name == "preview"]
    assert {preview["kind"] for preview in previews} == kinds
    for kind in kinds:
        for index in (0, 1):
            steps = [each["step"] for each in previews if (each["kind"], each["index"]) == (kind, index)]
            assert steps == [0, 10, 20, 30]


async def test_a_running_job_has_no_result_yet(settings: Settings) -> None:
    async with running(settings) as app:
        job = await begin(app, **LONG)
        early = await ask(app, job["urls"]["result"], method="GET")
        assert early.status == 409
        assert int(early.headers["retry-after"]) >= 1
        assert json.loads(early.body)["code"] == "job-running"
        late = await ask(app, job["urls"]["result"], method="GET", headers={"Prefer": "wait=1"})
        assert late.status == 409
        status = await get(app, job["urls"]["self"])
        assert status["status"] == "running"
        assert 0 < status["progress"] < 1
        first = status["progress"]
        while (await get(app, job["urls"]["self"]))["progress"] == first:
            await asyncio.sleep(0.01)
        await ask(app, job["urls"]["cancel"])


async def test_waiting_for_a_result_and_leaving_does_not_end_the_job(settings: Settings) -> None:
    async with running(settings) as app:
        job = await begin(app, n=8, steps=500)
        leaves = asyncio.Event()
        leaves.set()
        left = await ask(app, job["urls"]["result"], method="GET", headers={"Prefer": "wait=60"}, leaves=leaves)
        assert left.status == 499
        result = await ask(app, job["urls"]["result"], method="GET", headers={"Prefer": "wait=60"})
        assert result.status == 200


@pytest.mark.parametrize(("method", "end"), [("POST", "/cancel"), ("DELETE", "")])
async def test_giving_a_job_up_stops_its_work(settings: Settings, method: str, end: str) -> None:
    async with running(settings) as app:
        job = await begin(app, **LONG)
        other = await begin(app, n=2, steps=300)
        listening = asyncio.create_task(ask(app, job["urls"]["events"], method="GET"))
        await asyncio.sleep(0)
        for _ in range(2):
            answer = await ask(app, job["urls"]["self"] + end, method=method)
            if method == "POST":
                assert answer.status == 200
                canceled = json.loads(answer.body)
                assert (canceled["status"], canceled["error"]["code"]) == ("canceled", "job-canceled")
                assert canceled["progress"] < 1
            else:
                assert (answer.status, answer.body) == (204, b"")
        last = read_events((await listening).body)[-1]
        assert (last.name, last.data["code"], last.data["status"]) == ("error", "job-canceled", 410)
        result = await ask(app, job["urls"]["result"], method="GET")
        assert result.status == (410 if method == "POST" else 404)
        # Only its own work.
        assert (await ask(app, other["urls"]["result"], method="GET", headers={"Prefer": "wait=60"})).status == 200
        await idle(app)


def test_giving_up_what_has_ended_changes_nothing(client: TestClient) -> None:
    job = make(client, **FIELDS)
    assert client.post(job["urls"]["cancel"]).json()["status"] == "succeeded"
    assert client.get(job["urls"]["result"]).status_code == 200


def test_a_job_that_nobody_made_or_that_is_gone(client: TestClient) -> None:
    for path in ("", "/result", "/events"):
        problem(client.get(f"/jobs/{'0' * 32}{path}"), 404, "unknown-job")
    problem(client.post(f"/jobs/{'0' * 32}/cancel"), 404, "unknown-job")
    problem(client.delete(f"/jobs/{'0' * 32}"), 404, "unknown-job")
    job = make(client, **FIELDS)
    assert client.delete(job["urls"]["self"]).status_code == 204
    for path in ("", "/result", "/events"):
        problem(client.get(f"/jobs/{job['id']}{path}"), 404, "job-expired")
    problem(client.post(job["urls"]["cancel"]), 404, "job-expired")
    assert client.delete(job["urls"]["self"]).status_code == 204


async def test_a_client_sees_its_own_jobs(settings: Settings) -> None:
    async with running(settings) as app:
        mine = [json.loads((await ask(app, "/generate/vae", headers=ASYNC)).body)["id"] for _ in range(2)]
        theirs = json.loads((await ask(app, "/generate/vae", headers=ASYNC, client="127.0.0.2")).body)
        await idle(app)
        assert {job["id"] for job in (await get(app, "/jobs"))["jobs"]} == {*mine}
        # Knowing the id is enough to read the job.
        assert (await get(app, theirs["urls"]["self"]))["id"] == theirs["id"]


async def test_a_job_that_takes_too_long_fails(settings: Settings) -> None:
    async with running(settings) as app:
        job = await begin(app, **LONG, timeout_ms=300)
        told = read_events((await ask(app, job["urls"]["events"], method="GET")).body)
        assert (told[-1].name, told[-1].data["code"]) == ("error", "deadline-exceeded")
        result = await ask(app, job["urls"]["result"], method="GET")
        assert (result.status, json.loads(result.body)["code"]) == (504, "deadline-exceeded")
        assert (await get(app, job["urls"]["self"]))["status"] == "failed"
        await idle(app)


async def test_a_job_may_take_longer_than_a_request(weights: Path) -> None:
    settings = settings_of(weights, request_timeout_s=0.001)

    async with running(settings) as app:
        assert (await ask(app, "/generate/ddpm", to_body({"n": 8, "steps": 200}))).status == 504
        job = await begin(app, n=8, steps=200)
        assert (await ask(app, job["urls"]["result"], method="GET", headers={"Prefer": "wait=60"})).status == 200


def test_a_job_fails_as_a_request_does(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    write_one_shot(weights, decode=PoisonDecode())
    settings = settings_of(weights)

    def poisoned(seeds: list[int], place: torch.Tensor) -> None:
        place.fill_(-POISON - 1)

    async def scenario(monkeypatch: pytest.MonkeyPatch) -> None:
        async with running(settings) as app:
            monkeypatch.setattr("service.engine.table.draw_each", poisoned)
            job = json.loads((await ask(app, "/generate/vae", headers=ASYNC)).body)
            result = await ask(app, job["urls"]["result"], method="GET", headers={"Prefer": "wait=60"})
            assert (result.status, json.loads(result.body)["code"]) == (500, "compute-failed")
            told = read_events((await ask(app, job["urls"]["events"], method="GET")).body)
            assert (told[-1].name, told[-1].data["code"]) == ("error", "compute-failed")

    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(scenario(monkeypatch))


async def test_jobs_that_ended_are_kept_within_bytes(weights: Path) -> None:
    async with running(settings_of(weights, job_bytes=20_000)) as app:
        jobs = []
        for seed in range(10):
            jobs.append(await begin(app, n=4, seed=seed, steps=50))
            await ask(app, jobs[-1]["urls"]["result"], method="GET", headers={"Prefer": "wait=60"})
        answers = [await ask(app, job["urls"]["result"], method="GET") for job in jobs]
        statuses = [answer.status for answer in answers]
        assert statuses == sorted(statuses, reverse=True)
        assert statuses.count(404) > 3
        assert statuses[-1] == 200
        assert json.loads(answers[0].body)["code"] == "job-expired"


def test_jobs_are_counted(client: TestClient) -> None:
    before = series(client)
    make(client, **FIELDS)
    after = series(client)
    assert value(after, "jobs", state="ended") == value(before, "jobs", state="ended") + 1
    assert value(after, "jobs", state="open") == 0
    assert value(after, "images_total", model="ddpm") == value(before, "images_total", model="ddpm") + 3


async def test_stopping_tells_who_listens(weights: Path) -> None:
    async with running(settings_of(weights, drain_s=0.05)) as app:
        job = await begin(app, **LONG)
        listening = asyncio.create_task(ask(app, job["urls"]["events"], method="GET"))
        await asyncio.sleep(0)
    told = read_events((await listening).body)
    assert (told[-1].name, told[-1].data["code"]) == ("error", "service-stopping")


async def test_stopping_ends_a_job(settings: Settings) -> None:
    """The server has waited for whoever listens before the application stops."""

    async with running(settings) as app:
        job = await begin(app, n=8, steps=1000)
        listening = asyncio.create_task(ask(app, job["urls"]["events"], method="GET"))
        await asyncio.sleep(0)
    last = read_events((await listening).body)[-1]
    assert (last.name, last.data["code"]) == ("error", "service-stopping")
