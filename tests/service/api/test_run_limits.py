"""Bounds on the bytes that waiting requests hold, and on the price of one request."""

import asyncio
import base64
import gc
import json
import tracemalloc
from typing import Any

import pytest

from service.images import encode_png
from service.settings import Settings
from tests.service.api.conftest import ask, running, some_picture, to_body
from tests.service.api.runs import (
    ASYNC,
    IMAGE,
    STREAM,
    Decoding,
    blocked,
    ended,
    every_job,
    nothing_is_held,
    rows_wait,
    state_of,
    until,
)


@pytest.fixture
def settings(all_tasks: Settings) -> Settings:
    return all_tasks


async def test_open_jobs_hold_no_more_uploads_than_the_bound(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = encode_png(some_picture()) + bytes(10_000)  # what comes after a PNG is not read
    fields = {"image": base64.b64encode(upload).decode(), "n": 1}
    few = settings.model_copy(update={"max_waiting_bytes": 35_000})

    decoding = Decoding(monkeypatch)
    async with running(few) as app:
        jobs = [await ask(app, "/generate/vae", to_body(fields), headers=ASYNC) for _ in range(4)]
        assert [job.status for job in jobs] == [202, 202, 202, 503]
        assert json.loads(jobs[3].body)["code"] == "memory-full"
        assert jobs[3].headers["retry-after"] in {"1", "2"}
        assert state_of(app).memory.reserved == 3 * len(upload)
        assert (await ask(app, "/generate/vae")).status == 200  # it holds nothing
        with blocked(app):
            decoding.goes_on.set()  # from here on they wait for the engine, and hold a few numbers each
            await until(lambda: state_of(app).memory.reserved == 0)
        for job in jobs[:3]:
            assert (await ended(app, json.loads(job.body)["id"]))["status"] == "succeeded"
        assert nothing_is_held(app)


@pytest.mark.parametrize("headers", [{}, STREAM, {"Idempotency-Key": "a", **ASYNC}])
@pytest.mark.parametrize("path", ["/generate/ddpm", "/encode/ddpm", "/interpolate", "/v1/images/edits"])
async def test_an_upload_is_dropped_once_it_is_decoded(settings: Settings, path: str, headers: dict[str, str]) -> None:
    """By what the process has allocated since: no frame, task or protocol holds on to it."""
    upload = base64.b64encode(encode_png(some_picture()) + bytes(3_000_000)).decode()
    fields: dict[str, Any] = {"image": upload}
    if path == "/interpolate":
        fields = {"model": "ddpm", "from": {"image": upload}, "to": {"seed": 1}}
    if path == "/v1/images/edits":
        fields |= {"model": "ddpm", "prompt": "bag", "stream": headers == STREAM}
    body = to_body(fields)

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
        await asyncio.gather(*[ask(app, f"/jobs/{job.id}", method="DELETE") for job in await every_job(app)])


@pytest.mark.parametrize("headers", [{}, ASYNC, STREAM, {"Idempotency-Key": "a"}])
async def test_no_request_takes_an_idle_model_from_everybody(settings: Settings, headers: dict[str, str]) -> None:
    async with running(settings) as measured:
        picture_ms = 20 * state_of(measured).engine.deployments["ddpm"].lane.cost.warmup_row_ms()
    # The limits allow for a machine that is twice as slow at the next measurement.
    few = settings.model_copy(update={"max_request_ms": 200 * picture_ms})
    async with running(few) as app:
        fields = {"n": 64, "steps": 1000, "guidance_scale": 2, "class_label": 1}
        answer = await ask(app, "/generate/ddpm", to_body(fields), headers=headers)
        assert answer.status == 422
        assert "retry-after" not in answer.headers
        problem = json.loads(answer.body)
        assert problem["code"] == "too-expensive"
        assert [error["pointer"] for error in problem["errors"]] == ["#/n", "#/steps", "#/guidance_scale"]
        assert " s of device time" in problem["detail"]
        assert nothing_is_held(app)
        assert (await ask(app, "/jobs", method="GET")).body == b'{"jobs":[]}'
        small = await ask(app, "/generate/ddpm", to_body({"n": 2, "steps": 10}), headers=headers)
        assert small.status in (200, 202)


@pytest.mark.parametrize(
    ("path", "fields", "pointers"),
    [
        ("/interpolate", {"model": "ddpm", "frames": 64, "steps": 1000}, ["#/frames", "#/steps"]),
        ("/encode/ddpm", {"image": [IMAGE] * 8, "steps": 1000}, ["#/image", "#/steps"]),
        ("/generate/ddpm", {"seeds": [1, 2], "steps": 1000}, ["#/seeds", "#/steps"]),
        ("/generate/ddpm", {"steps": 1000}, ["#/steps"]),
        ("/v1/images/edits", {"model": "ddpm", "prompt": "bag", "image": IMAGE, "steps": 1000}, ["#/steps"]),
        ("/v1/images/generations", {"model": "ddpm", "prompt": "", "n": 64, "steps": 1000}, ["#/n", "#/steps"]),
    ],
)
async def test_what_makes_a_request_too_expensive_is_named_before_anything_is_decoded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, Any], pointers: list[str]
) -> None:
    few = settings.model_copy(update={"max_request_ms": 1e-6})  # what one picture by the defaults takes

    decoding = Decoding(monkeypatch)
    async with running(few) as app:
        problem = json.loads((await ask(app, path, to_body(fields))).body)
        assert problem["code"] == "too-expensive"
        assert [error["pointer"] for error in problem["errors"]] == pointers
        assert all(error["allowed"] for error in problem["errors"])
        assert decoding.begun == 0


async def test_the_price_of_what_comes_before_the_pictures_counts(settings: Settings) -> None:
    """An encoding that is inverted and made again is twice its steps."""

    async with running(settings) as app:
        ddpm = state_of(app).engine.deployments["ddpm"]
        with blocked(app):
            await ask(app, "/encode/ddpm", to_body({"image": IMAGE, "steps": 50}), headers=ASYNC)
            assert ddpm.gate.accepted_ms == pytest.approx(100 * ddpm.lane.cost.row_ms(), rel=1e-3)
            (job,) = await every_job(app)
            job.cancel()
            await until(lambda: nothing_is_held(app))
