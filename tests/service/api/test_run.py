"""The road from a checked request to its answer: what is done in which order, once, within one time and some memory."""

import asyncio
import base64
import gc
import json
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from service.api.run import Deadline, deadline_of
from service.api.schemas import GenerateRequest
from service.api.state import State
from service.api.uploads import Fitted, read_picture
from service.errors import DeadlineExceeded
from service.images import encode_png
from service.settings import Settings
from tests.service.api.conftest import (
    JSON,
    ask,
    base64_png,
    read_series,
    running,
    settings_of,
    some_picture,
    to_body,
    value,
)
from tests.service.artefacts import write_autoencoder, write_diffusion, write_latent_diffusion
from tests.service.clock import Clock

IMAGE = base64_png(some_picture())
ASYNC = {"Prefer": "respond-async"}
STREAM = {"Accept": "text/event-stream"}

#: Requests whose rows begin from uploads, one of each kind.
UPLOADS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "encoded": ("/encode/vae", {"image": [IMAGE, IMAGE]}),
    "inverted": ("/encode/ddpm", {"image": IMAGE, "steps": 5}),
    "varied": ("/generate/vae", {"image": IMAGE, "n": 2}),
    "redrawn": ("/generate/ldm", {"image": IMAGE, "mask": IMAGE, "seed": 1}),
    "led through": ("/interpolate", {"model": "ldm", "from": {"image": IMAGE}, "to": {"seed": 1}, "frames": 3}),
}
each_kind = pytest.mark.parametrize("kind", UPLOADS)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    weights = tmp_path / "weights"
    write_autoencoder(weights)
    write_diffusion(weights)
    write_latent_diffusion(weights)
    return settings_of(weights)


def state_of(app: FastAPI) -> State:
    state: State = app.state.service
    return state


def nothing_is_held(app: FastAPI) -> bool:
    """Whether no bytes and no device time are taken."""
    state, served = state_of(app), [*state_of(app).engine.deployments.values()]
    gates = [each.gate for each in (*served, *(each.encoder for each in served)) if each is not None]
    return state.memory.held == 0 and not any(gate.accepted_ms for gate in gates)


def rows_wait(app: FastAPI) -> bool:
    """Whether rows of any model are queued."""
    registry = state_of(app).metrics.registry
    lanes = ("vae", "vae/encode", "ddpm", "ldm", "ldm/encode")
    return any(registry.get_sample_value("genserve_queued_rows", {"model": lane}) for lane in lanes)


async def until(condition: Any) -> None:
    """Wait for what comes true soon."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@contextmanager
def blocked(app: FastAPI) -> Iterator[None]:
    """The one thread of the engine does something else for a while."""
    go_on, began = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        go_on.wait(60)

    state_of(app).engine.lend(wait)
    began.wait(60)
    try:
        yield
    finally:
        go_on.set()


class Decoding:
    """Decoding of uploads, which begins only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.goes_on = 0, asyncio.Event()
        for module in ("starts", "encode", "path_points"):
            monkeypatch.setattr(f"service.api.{module}.read_picture", self._read)

    async def _read(self, field: str, data: bytes, *others: Any) -> Fitted:
        self.begun += 1
        await self.goes_on.wait()
        return await read_picture(field, data, *others)


async def status_of(app: FastAPI, id: str) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((await ask(app, f"/jobs/{id}", method="GET")).body)
    return status


async def ended(app: FastAPI, id: str) -> dict[str, Any]:
    """The job once it has ended."""
    async with asyncio.timeout(20):
        while (status := await status_of(app, id))["status"] in ("queued", "running"):
            await asyncio.sleep(0.005)
    return status


@asynccontextmanager
async def computed_rows(app: FastAPI, rows: list[float]) -> AsyncIterator[None]:
    """Append how many rows of network calls were computed."""

    async def count() -> float:
        samples = read_series((await ask(app, "/metrics", method="GET")).body.decode())
        return sum(number for (name, _), number in samples.items() if name == "genserve_tick_rows_sum")

    before = await count()
    yield
    rows.append(await count() - before)


@each_kind
def test_a_job_is_told_before_anything_is_decoded_or_computed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, fields = UPLOADS[kind]

    async def scenario() -> None:
        decoding = Decoding(monkeypatch)
        async with running(settings) as app:
            with blocked(app):
                answer = await ask(app, path, to_body(fields), headers=ASYNC)
                assert answer.status == 202
                assert decoding.begun == 0
                job = json.loads(answer.body)
                assert (job["status"], job["progress"]) == ("queued", 0)
                decoding.goes_on.set()
                assert (await status_of(app, job["id"]))["status"] == "queued"
            assert (await ended(app, job["id"]))["status"] == "succeeded"
            assert nothing_is_held(app)

    asyncio.run(scenario())


@each_kind
def test_a_request_that_is_sent_again_is_computed_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, fields = UPLOADS[kind]
    headers = {"Idempotency-Key": "once", **JSON}

    async def scenario() -> None:
        decoding, rows = Decoding(monkeypatch), list[float]()
        async with running(settings) as app:
            async with computed_rows(app, rows):
                first = asyncio.create_task(ask(app, path, to_body(fields), headers=headers))
                await until(lambda: decoding.begun)
                for _ in range(3):
                    during = await ask(app, path, to_body(fields), headers=headers)
                    assert (during.status, json.loads(during.body)["code"]) == (409, "idempotency-key-in-use")
                decoding.goes_on.set()
                answer = await first
                assert answer.status == 200
                decoded = decoding.begun
            async with computed_rows(app, rows):
                for _ in range(3):
                    after = await ask(app, path, to_body(fields), headers=headers)
                    assert (after.status, after.body) == (200, answer.body)
                    assert after.headers["idempotent-replayed"] == "true"
            assert decoding.begun == decoded
            assert rows[0] > 0
            assert rows[1] == 0

    asyncio.run(scenario())


@each_kind
def test_another_picture_under_the_same_key_is_another_request(settings: Settings, kind: str) -> None:
    path, fields = UPLOADS[kind]
    other = json.loads(json.dumps(fields).replace(IMAGE, base64_png(some_picture(1))))

    async def scenario() -> None:
        async with running(settings) as app:
            headers = {"Idempotency-Key": "one"}
            assert (await ask(app, path, to_body(fields), headers=headers)).status == 200
            answer = await ask(app, path, to_body(other), headers=headers)
            assert (answer.status, json.loads(answer.body)["code"]) == (422, "idempotency-key-reused")

    asyncio.run(scenario())


@each_kind
@pytest.mark.parametrize("headers", [{}, ASYNC])
def test_one_time_is_for_all_of_the_work(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str, headers: dict[str, str]
) -> None:
    """What takes too long before the pictures is late, as a job too."""
    path, fields = UPLOADS[kind]

    async def scenario() -> None:
        Decoding(monkeypatch)  # which does not go on
        async with running(settings) as app:
            answer = await ask(app, path, to_body({**fields, "timeout_ms": 150}), headers=headers)
            if headers == ASYNC:
                assert answer.status == 202
                error = (await ended(app, json.loads(answer.body)["id"]))["error"]
            else:
                error = json.loads(answer.body)
            assert error["code"] == "deadline-exceeded"
            assert "0.15 s" in error["detail"]
            assert nothing_is_held(app)

    asyncio.run(scenario())


def test_the_time_counts_from_when_the_request_came(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("service.api.run.time", clock)
    told = {"arrived_at": 5.0}
    assert deadline_of(told, GenerateRequest(), 60.0) == Deadline(60.0, 65.0)
    deadline = deadline_of(told, GenerateRequest(timeout_ms=1000), 60.0)
    clock.now = 5.75
    assert deadline.left_s() == 0.25
    assert deadline_of(told, GenerateRequest(timeout_ms=1000), 600.0) == deadline
    clock.now = 6.0
    with pytest.raises(DeadlineExceeded, match=r"within 1 s"):
        deadline.left_s()
    assert deadline_of(told, GenerateRequest(timeout_ms=90_000), 60.0) == Deadline(60.0, 65.0)


@each_kind
@pytest.mark.parametrize("where", ["decoding", "computing"])
@pytest.mark.parametrize("headers", [{"Idempotency-Key": "a"}, STREAM])
def test_leaving_gives_back_all_that_was_taken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str, where: str, headers: dict[str, str]
) -> None:
    path, fields = UPLOADS[kind]

    async def scenario() -> None:
        decoding = Decoding(monkeypatch)
        async with running(settings) as app:
            with blocked(app):
                leaves = asyncio.Event()
                request = asyncio.create_task(ask(app, path, to_body(fields), headers=headers, leaves=leaves))
                await until(lambda: decoding.begun)
                assert not nothing_is_held(app)
                if where == "computing":
                    decoding.goes_on.set()
                    await until(lambda: rows_wait(app))
                leaves.set()
                await request
                await until(lambda: nothing_is_held(app))
            decoding.goes_on.set()
            assert (await ask(app, path, to_body(fields), headers={"Idempotency-Key": "a"})).status == 200
            samples = read_series((await ask(app, "/metrics", method="GET")).body.decode())
            model = path.split("/")[2] if path != "/interpolate" else fields["model"]
            assert value(samples, "cancelled_total", model=model, reason="client-left") == 1

    asyncio.run(scenario())


@each_kind
def test_a_canceled_job_gives_back_all_that_was_taken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, fields = UPLOADS[kind]

    async def scenario() -> None:
        decoding = Decoding(monkeypatch)
        async with running(settings) as app:
            job = json.loads((await ask(app, path, to_body(fields), headers=ASYNC)).body)
            await until(lambda: decoding.begun)
            await ask(app, job["urls"]["cancel"])
            await until(lambda: nothing_is_held(app))
            assert (await status_of(app, job["id"]))["status"] == "canceled"

    asyncio.run(scenario())


@each_kind
def test_an_upload_that_is_no_picture_is_refused_or_fails_its_job(settings: Settings, kind: str) -> None:
    path, fields = UPLOADS[kind]
    bad = json.loads(json.dumps(fields).replace(IMAGE, base64.b64encode(b"GIF89a, or so").decode()))

    async def scenario() -> None:
        async with running(settings) as app:
            plain = await ask(app, path, to_body(bad))
            assert (plain.status, json.loads(plain.body)["code"]) == (415, "unsupported-image")
            answer = await ask(app, path, to_body(bad), headers=ASYNC)
            assert answer.status == 202
            job = await ended(app, json.loads(answer.body)["id"])
            assert (job["status"], job["error"]["code"]) == ("failed", "unsupported-image")
            assert job["error"]["errors"][0]["pointer"].startswith("#/")
            # What the fields alone tell is told before the 202.
            wrong = await ask(app, path, to_body({**fields, "scale": 0}), headers=ASYNC)
            assert wrong.status == 422
            assert nothing_is_held(app)

    asyncio.run(scenario())


def test_open_jobs_hold_no_more_uploads_than_the_bound(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = encode_png(some_picture()) + bytes(10_000)  # what comes after a PNG is not read
    fields = {"image": base64.b64encode(upload).decode(), "n": 1}
    few = settings.model_copy(update={"max_waiting_bytes": 35_000})

    async def scenario() -> None:
        decoding = Decoding(monkeypatch)
        async with running(few) as app:
            jobs = [await ask(app, "/generate/vae", to_body(fields), headers=ASYNC) for _ in range(4)]
            assert [job.status for job in jobs] == [202, 202, 202, 503]
            assert (json.loads(jobs[3].body)["code"], jobs[3].headers["retry-after"]) == ("memory-full", "1")
            assert state_of(app).memory.held == 3 * len(upload)
            assert (await ask(app, "/generate/vae")).status == 200  # it holds nothing
            with blocked(app):
                decoding.goes_on.set()  # from here on they wait for the engine, and hold a few numbers each
                await until(lambda: state_of(app).memory.held == 0)
            for job in jobs[:3]:
                assert (await ended(app, json.loads(job.body)["id"]))["status"] == "succeeded"
            assert nothing_is_held(app)

    asyncio.run(scenario())


@pytest.mark.parametrize("headers", [{}, STREAM, {"Idempotency-Key": "a", **ASYNC}])
@pytest.mark.parametrize("path", ["/generate/ddpm", "/encode/ddpm", "/interpolate", "/v1/images/edits"])
def test_an_upload_is_dropped_once_it_is_decoded(settings: Settings, path: str, headers: dict[str, str]) -> None:
    """By what the process has allocated since: no frame, task or protocol holds on to it."""
    upload = base64.b64encode(encode_png(some_picture()) + bytes(3_000_000)).decode()
    fields: dict[str, Any] = {"image": upload}
    if path == "/interpolate":
        fields = {"model": "ddpm", "from": {"image": upload}, "to": {"seed": 1}}
    if path == "/v1/images/edits":
        fields |= {"model": "ddpm", "prompt": "bag", "stream": headers == STREAM}
    body = to_body(fields)

    async def scenario() -> None:
        async with running(settings) as app:
            with blocked(app):
                gc.collect()
                tracemalloc.start()
                try:
                    leaves = asyncio.Event()
                    request = asyncio.create_task(ask(app, path, body, headers=headers, leaves=leaves))
                    await until(lambda: rows_wait(app))
                    assert tracemalloc.get_traced_memory()[1] > 3_000_000
                    # The thread that decoded it lets go of it a moment after its result is there.
                    await until(lambda: tracemalloc.get_traced_memory()[0] < 1_000_000)
                finally:
                    tracemalloc.stop()
                leaves.set()
                await request
            await asyncio.gather(*[ask(app, f"/jobs/{job.id}", method="DELETE") for job in every_job(app)])

    asyncio.run(scenario())


def every_job(app: FastAPI) -> list[Any]:
    return [*state_of(app).jobs.of("127.0.0.1", 100)]


@pytest.mark.parametrize("headers", [{}, ASYNC, STREAM, {"Idempotency-Key": "a"}])
def test_no_request_takes_an_idle_model_from_everybody(settings: Settings, headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with running(settings) as measured:
            picture_ms = 20 * state_of(measured).engine.deployments["ddpm"].lane.cost.list_row_ms()
        # Twice as slow a machine when it is measured again makes no difference to what is asked for here.
        few = settings.model_copy(update={"max_request_ms": 200 * picture_ms})
        async with running(few) as app:
            fields = {"n": 64, "steps": 1000, "guidance_scale": 2, "class_label": 1}
            answer = await ask(app, "/generate/ddpm", to_body(fields), headers=headers)
            assert answer.status == 422
            assert "retry-after" not in answer.headers
            problem = json.loads(answer.body)
            assert problem["code"] == "too-expensive"
            assert [error["pointer"] for error in problem["errors"]] == ["#/n", "#/steps", "#/guidance_scale"]
            assert " s of the model's time" in problem["detail"]
            assert nothing_is_held(app)
            assert (await ask(app, "/jobs", method="GET")).body == b'{"jobs":[]}'
            small = await ask(app, "/generate/ddpm", to_body({"n": 2, "steps": 10}), headers=headers)
            assert small.status in (200, 202)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "fields", "pointers"),
    [
        ("/interpolate", {"model": "ddpm", "frames": 64, "steps": 1000}, ["#/frames", "#/steps"]),
        ("/encode/ddpm", {"image": [IMAGE] * 8, "steps": 1000}, ["#/image", "#/steps"]),
        ("/generate/ddpm", {"seeds": [1, 2], "steps": 1000}, ["#/seeds", "#/steps"]),
        ("/generate/ddpm", {"steps": 1000}, ["#/steps"]),
        ("/v1/images/generations", {"model": "ddpm", "prompt": "", "n": 64, "steps": 1000}, ["#/n", "#/steps"]),
    ],
)
def test_what_makes_a_request_too_expensive_is_named(
    settings: Settings, path: str, fields: dict[str, Any], pointers: list[str]
) -> None:
    few = settings.model_copy(update={"max_request_ms": 1e-6})  # what one picture by the defaults takes

    async def scenario() -> None:
        async with running(few) as app:
            problem = json.loads((await ask(app, path, to_body(fields))).body)
            assert problem["code"] == "too-expensive"
            assert [error["pointer"] for error in problem["errors"]] == pointers
            assert all(error["allowed"] for error in problem["errors"])

    asyncio.run(scenario())


def test_the_price_of_what_comes_before_the_pictures_counts(settings: Settings) -> None:
    """An encoding that is inverted and made again is twice its steps."""

    async def scenario() -> None:
        async with running(settings) as app:
            ddpm = state_of(app).engine.deployments["ddpm"]
            with blocked(app):
                await ask(app, "/encode/ddpm", to_body({"image": IMAGE, "steps": 50}), headers=ASYNC)
                assert ddpm.gate.accepted_ms == pytest.approx(100 * ddpm.lane.cost.row_ms())
                (job,) = every_job(app)
                job.cancel()
                await until(lambda: nothing_is_held(app))

    asyncio.run(scenario())
