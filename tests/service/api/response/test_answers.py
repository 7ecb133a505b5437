import asyncio
import base64
import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import Message

from service.settings import Settings
from tests.service.api.conftest import (
    JSON,
    LONG,
    Series,
    accepted,
    ask,
    assert_same,
    decode,
    idle,
    pictures,
    read_series,
    rows_under_way,
    running,
    to_body,
    value,
)
from tests.service.conftest import settings_of


async def samples_of(app: FastAPI) -> Series:
    return read_series((await ask(app, "/metrics", method="GET")).body.decode())


def test_a_large_answer_is_the_same_picture(client: TestClient) -> None:
    # Encoded beside the event loop, where small ones are encoded on it.
    fields = {"seed": 2, "n": 2, "scale": 32}
    large = client.post("/generate/vae", json=fields, headers=JSON).json()["images"]
    shown = np.stack([decode(base64.b64decode(image["b64_json"])) for image in large])
    assert_same(shown, pictures(client, "vae", seed=2, n=2).repeat(32, axis=1).repeat(32, axis=2))


async def test_a_disconnect_drops_the_work(weights: Path) -> None:
    async with running(settings_of(weights)) as app:
        leaves = asyncio.Event()
        request = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG), leaves=leaves))
        await accepted(app)
        leaves.set()
        answer = await request
        assert (answer.status, answer.body) == (499, b"")
        await idle(app)
        samples = await samples_of(app)
        assert value(samples, "images_total", model="ddpm") == 0
        assert sum(number for (name, _), number in samples.items() if name == "genserve_errors_total") == 0
        assert (await ask(app, "/generate/ddpm")).status == 200


@pytest.mark.parametrize("path", ["/generate/vae", "/interpolate"])
def test_a_disconnect_while_sending_is_no_error(
    settings: Settings, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    sent: Iterator[Message] = iter(
        [{"type": "http.request", "body": b'{"seed"', "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(sent)

    async def scenario() -> None:
        async with running(settings) as app:
            answer = await ask(app, path, receive=receive)
            assert (answer.status, answer.body) == (499, b"")

    asyncio.run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_request_that_is_cancelled_frees_its_rows(weights: Path) -> None:
    async with running(settings_of(weights)) as app:
        request = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG)))
        await accepted(app)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await idle(app)


async def test_pictures_that_take_too_long_are_given_up(weights: Path) -> None:
    async with running(settings_of(weights, request_timeout_s=0.001)) as app:
        answer = await ask(app, "/generate/ddpm", to_body(LONG))
        assert answer.status == 504
        assert answer.headers["content-type"] == "application/problem+json"
        assert b"0.001 s" in answer.body
        await idle(app)
        samples = await samples_of(app)
        assert value(samples, "errors_total", model="ddpm", reason="deadline-exceeded") == 1


# The shorter one may pass before the rows reach the engine.
@pytest.mark.parametrize(("timeout_ms", "droppable"), [(5, {0, 64}), (200, {64})])
@pytest.mark.parametrize(
    ("path", "fields"), [("/generate/ddpm", LONG), ("/interpolate", {"model": "ddpm", "frames": 64, "steps": 1000})]
)
async def test_a_request_is_given_up_when_it_says(
    weights: Path, path: str, fields: Mapping[str, object], timeout_ms: int, droppable: set[int]
) -> None:
    async with running(settings_of(weights)) as app:
        started = time.monotonic()
        answer = await ask(app, path, to_body({**fields, "timeout_ms": timeout_ms}))
        assert time.monotonic() - started >= timeout_ms / 1000
        assert answer.status == 504
        assert b'"code":"deadline-exceeded"' in answer.body
        assert f"{timeout_ms / 1000:g} s".encode() in answer.body
        await idle(app)
        samples = await samples_of(app)
        assert value(samples, "errors_total", model="ddpm", reason="deadline-exceeded") == 1
        assert value(samples, "images_total", model="ddpm") == 0
        dropped = [value(samples, "dropped_rows_total", model="ddpm", stage=each) for each in ("queued", "running")]
        assert sum(dropped) in droppable


async def test_the_service_waits_no_longer_than_it_would_anyway(weights: Path) -> None:
    async with running(settings_of(weights, request_timeout_s=0.001)) as app:
        answer = await ask(app, "/generate/ddpm", to_body({**LONG, "timeout_ms": 3_600_000}))
        assert answer.status == 504
        assert b"0.001 s" in answer.body


def test_a_request_that_is_done_in_time_is_answered(client: TestClient) -> None:
    for path, fields in (("/generate/ddpm", {}), ("/interpolate", {"model": "vae"})):
        assert client.post(path, json={**fields, "timeout_ms": 60_000}).status_code == 200
    assert client.get("/generate/vae", params={"timeout_ms": 60_000}).status_code == 200


async def test_a_request_that_cannot_meet_its_deadline_is_rejected_at_once(weights: Path) -> None:
    async with running(settings_of(weights)) as app:
        leaves = asyncio.Event()
        long = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG), leaves=leaves))
        await accepted(app)
        late = await ask(app, "/generate/ddpm", to_body({**LONG, "timeout_ms": 10}))
        assert late.status == 503
        assert b'"code":"too-late"' in late.body
        assert re.search(rb"your deadline is 0\.0\d+ s", late.body)
        assert int(late.headers["retry-after"]) >= 1
        assert await rows_under_way(app) == 64
        # A short one passes between the steps of the long one.
        short = await ask(app, "/generate/ddpm", to_body({"steps": 2, "timeout_ms": 10_000}))
        assert short.status == 200
        assert not long.done()
        leaves.set()
        await long
        samples = await samples_of(app)
        assert value(samples, "errors_total", model="ddpm", reason="too-late") == 1
        assert value(samples, "images_total", model="ddpm") == 1


@pytest.mark.parametrize(
    ("own", "again"), [("10.0.0.1", "10.0.0.1"), ("10.0.0.1", "::ffff:10.0.0.1"), ("2001:db8::1", "2001:db8::2:1")]
)
async def test_a_client_beyond_its_share_is_rejected_and_others_are_served(weights: Path, own: str, again: str) -> None:
    async with running(settings_of(weights, client_share=1e-12)) as app:
        leaves = asyncio.Event()
        first = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG), leaves=leaves, client=own))
        await accepted(app)
        second = await ask(app, "/generate/ddpm", client=again)
        assert second.status == 429
        assert second.headers["content-type"] == "application/problem+json"
        assert b'"code":"share-exceeded"' in second.body
        assert int(second.headers["retry-after"]) >= 1
        for other in ("10.0.0.2", "2001:db8:0:1::1", "::1", None):
            assert (await ask(app, "/generate/ddpm", client=other)).status == 200
        # The other model's queue is its own.
        assert (await ask(app, "/generate/vae", client=again)).status == 200
        leaves.set()
        await first
        assert (await ask(app, "/generate/ddpm", client=again)).status == 200
        samples = await samples_of(app)
        assert value(samples, "errors_total", model="ddpm", reason="share-exceeded") == 1


async def test_a_full_queue_rejects_until_it_is_drained(weights: Path) -> None:
    async with running(settings_of(weights, max_queue_ms=1e-6)) as app:
        leaves = asyncio.Event()
        first = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG), leaves=leaves))
        await accepted(app)
        second = await ask(app, "/generate/ddpm")
        assert second.status == 503
        assert b'"code":"overloaded"' in second.body
        assert int(second.headers["retry-after"]) >= 1
        # The other model has a queue of its own.
        assert (await ask(app, "/generate/vae")).status == 200
        leaves.set()
        await first
        assert (await ask(app, "/generate/ddpm")).status == 200
        assert (await ask(app, "/generate/ddpm")).status == 200
        samples = await samples_of(app)
        assert value(samples, "errors_total", model="ddpm", reason="overloaded") == 1
