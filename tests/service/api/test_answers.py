import asyncio
import base64
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from service.settings import Settings
from tests.service.api.conftest import (
    JSON,
    LONG,
    accepted,
    ask,
    assert_same,
    decode,
    idle,
    pictures,
    read_series,
    running,
    to_body,
    value,
)


def settings_with(weights: Path, **fields: float) -> Settings:
    return Settings.model_validate(
        {"weights_dir": weights, "device": "cpu", "engine_threads": 1, "max_bucket": 8, **fields}
    )


def test_a_large_answer_is_the_same_picture(client: TestClient) -> None:
    # Encoded beside the event loop, where small ones are encoded on it.
    fields = {"seed": 2, "n": 2, "scale": 32}
    large = client.post("/generate/vae", json=fields, headers=JSON).json()["images"]
    shown = np.stack([decode(base64.b64decode(image["b64_png"])) for image in large])
    assert_same(shown, pictures(client, "vae", seed=2, n=2).repeat(32, axis=1).repeat(32, axis=2))


def test_a_client_that_leaves_takes_its_work_along(weights: Path) -> None:
    async def scenario() -> None:
        async with running(settings_with(weights)) as app:
            leaves = asyncio.Event()
            request = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG), leaves=leaves))
            await accepted(app)
            leaves.set()
            answer = await request
            assert (answer.status, answer.body) == (499, b"")
            await idle(app)
            samples = read_series((await ask(app, "/metrics", method="GET")).body.decode())
            assert value(samples, "images_total", model="ddpm") == 0
            assert sum(number for (name, _), number in samples.items() if name == "genserve_errors_total") == 0
            assert (await ask(app, "/generate/ddpm")).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/generate/vae", "/interpolate"])
def test_a_client_that_leaves_while_it_sends_is_no_error(
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


def test_a_request_that_is_cancelled_frees_its_rows(weights: Path) -> None:
    async def scenario() -> None:
        async with running(settings_with(weights)) as app:
            request = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG)))
            await accepted(app)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await idle(app)

    asyncio.run(scenario())


def test_pictures_that_take_too_long_are_given_up(weights: Path) -> None:
    async def scenario() -> None:
        async with running(settings_with(weights, request_timeout_s=0.001)) as app:
            answer = await ask(app, "/generate/ddpm", to_body(LONG))
            assert answer.status == 504
            assert answer.headers["content-type"] == "application/problem+json"
            assert b"0.001 s" in answer.body
            await idle(app)
            samples = read_series((await ask(app, "/metrics", method="GET")).body.decode())
            assert value(samples, "errors_total", model="ddpm", reason="deadline-exceeded") == 1

    asyncio.run(scenario())


def test_a_full_queue_refuses_until_it_is_worked_off(weights: Path) -> None:
    async def scenario() -> None:
        async with running(settings_with(weights, max_queue_ms=1e-6)) as app:
            leaves = asyncio.Event()
            first = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG), leaves=leaves))
            await accepted(app)
            second = await ask(app, "/generate/ddpm")
            assert second.status == 503
            assert b'"code":"overloaded"' in second.body
            assert int(second.headers["retry-after"]) >= 1
            # The other model has a door of its own.
            assert (await ask(app, "/generate/vae")).status == 200
            leaves.set()
            await first
            assert (await ask(app, "/generate/ddpm")).status == 200
            assert (await ask(app, "/generate/ddpm")).status == 200
            samples = read_series((await ask(app, "/metrics", method="GET")).body.decode())
            assert value(samples, "errors_total", model="ddpm", reason="overloaded") == 1

    asyncio.run(scenario())
