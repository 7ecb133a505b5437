import asyncio
import logging
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from service.app import create_app
from service.engine.deployment import Deployment
from service.engine.engine import Engine
from service.engine.model import Served
from service.settings import Settings
from tests.service.api.conftest import LONG, accepted, ask, idle, running, to_body
from tests.service.conftest import settings_of


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-")]


def test_stopping_finishes_what_was_accepted_and_refuses_what_comes(settings: Settings) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            app = create_app(settings)
            await stack.enter_async_context(app.router.lifespan_context(app))
            busy = asyncio.create_task(ask(app, "/generate/ddpm", to_body({"n": 8, "steps": 300})))
            await accepted(app)
            stopping = asyncio.create_task(stack.aclose())
            await asyncio.sleep(0)
            for path, body in (("/generate/vae", b""), ("/interpolate", b'{"model": "vae"}')):
                late = await ask(app, path, body)
                assert late.status == 503
                assert b'"code":"model-unavailable"' in late.body
                assert b"stopping" in late.body
            await stopping
            finished = await busy
            assert (finished.status, finished.headers["content-type"]) == (200, "image/png")
            assert (await ask(app, "/generate/ddpm")).status == 503

    asyncio.run(scenario())
    assert engine_threads() == []


async def test_stopping_waits_no_longer_than_it_may(weights: Path) -> None:
    async with running(settings_of(weights, drain_s=0.01)) as app:
        busy = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG)))
        await accepted(app)
    assert engine_threads() == []
    assert not busy.done()
    busy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await busy


async def test_stopping_does_not_wait_for_a_job_that_nobody_could_fetch(weights: Path) -> None:
    async with asyncio.timeout(60), running(settings_of(weights, drain_s=1e6)) as app:
        begun = await ask(app, "/generate/ddpm", to_body(LONG), headers={"Prefer": "respond-async"})
        assert begun.status == 202
        await accepted(app)
    assert engine_threads() == []


def test_an_idle_service_stops_at_once(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as app:
            assert len(engine_threads()) == 2
            assert (await ask(app, "/generate/vae")).status == 200
            await idle(app)

    asyncio.run(scenario())
    assert engine_threads() == []


def test_a_failure_of_the_server_stops_what_was_started(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings):
            assert engine_threads()
            raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(scenario())
    assert engine_threads() == []


def test_models_are_ready_before_the_first_request(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service"), TestClient(create_app(settings)) as client:
        told = {vars(record)["model"]: vars(record) for record in caplog.records if record.message == "model ready"}
        cards = {card["name"]: card for card in client.get("/models").json()}
    assert told.keys() == cards.keys() == {"vae", "ddpm"}
    for name, card in cards.items():
        assert told[name]["version"] == card["version"]
        assert 1 <= told[name]["bucket"] <= settings.max_bucket
        assert told[name]["row_ms"] > 0


def test_a_model_whose_table_finds_no_memory_is_refused_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Engine.build

    def no_memory(engine: Engine, served: Served) -> Deployment:
        if served.model.name == "vae":
            raise torch.OutOfMemoryError("no room for its table")
        return build(engine, served)

    monkeypatch.setattr(Engine, "build", no_memory)
    with TestClient(create_app(settings)) as client:
        ready = client.get("/health/ready")
        assert (ready.status_code, list(ready.json()["models"])) == (503, ["ddpm"])
        assert "no room for its table" in ready.json()["refused"]["vae"]
        assert client.post("/generate/ddpm").status_code == 200


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_stops_the_start(weights: Path) -> None:
    app = create_app(Settings(weights_dir=weights, device="cuda"))
    with pytest.raises(ValueError, match="GENSERVE_DEVICE=cuda"), TestClient(app):
        pass


def test_an_application_starts_again_after_it_stopped(settings: Settings) -> None:
    app = create_app(settings)
    for _ in range(2):
        with TestClient(app) as client:
            assert client.post("/generate/vae").status_code == 200
