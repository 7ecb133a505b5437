"""Versions come and go under an engine that serves."""

import asyncio
import gc
import shutil
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from service.background import Background
from service.change_errors import (
    AlreadyServed,
    ChangeUnderWay,
    ModelUnusable,
    NoSuchVersion,
    NotServed,
    UnknownFolder,
)
from service.contract.manifest import read_manifest
from service.engine.rows import encode_row
from service.models import local_fleet
from service.models.manager import ChangeResult
from service.models.registry import load_registry
from service.settings import Settings
from tests.service.artefacts import Encode, write_autoencoder, write_one_shot
from tests.service.engine.conftest import CPU, request_rows
from tests.service.engine.running import Nan, export, running, vanished


class ShiftedEncode(Encode):
    """As Encode, with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(self.weight.detach() + 1.0)


async def test_a_new_version_serves_and_the_one_before_goes(weights: Path, settings: Settings) -> None:
    async with running(settings) as service:
        first, before = service.version(), await service.picture()
        gone = weakref.ref(service.engine.deployments["vae"].model)
        second = export(weights)
        assert await service.manager.reload("vae") == ChangeResult("vae", "swapped", second, first)
        assert service.version() == second != first
        assert await service.picture() != before
        await vanished(gone)
        assert service.running_version("vae") == second
        assert service.sample("model_changes_total", model="vae", outcome="swapped") == 1


async def test_an_encoder_comes_and_goes_with_its_version(weights: Path, settings: Settings) -> None:
    write_autoencoder(weights, "coder")
    picture = [encode_row(torch.ones(1, 8, 8), 0)]
    async with running(settings) as service:
        held = service.engine.deployments["coder"]
        assert held.encoder is not None
        (before,) = await service.engine.submit(held.encoder, picture).future
        write_autoencoder(weights, "coder", encode=ShiftedEncode())
        await service.manager.reload("coder")
        newer = service.engine.deployments["coder"]
        assert newer.encoder is not None
        (after,) = await service.engine.submit(newer.encoder, picture).future
        (late,) = await service.engine.submit(held.encoder, picture).future
        assert late.tobytes() == before.tobytes() != after.tobytes()
        assert service.sample("table_rows", model="coder/encode") == settings.table_rows
        write_one_shot(weights, "coder")
        await service.manager.reload("coder")
        assert service.engine.deployments["coder"].encoder is None
        assert service.sample("table_rows", model="coder/encode") is None
        assert service.sample("table_rows", model="coder") == settings.table_rows


async def test_rows_in_flight_finish_on_the_version_that_began_them(weights: Path, settings: Settings) -> None:
    async with running(settings) as service:
        before = await service.picture()
        held = service.engine.deployments["vae"]
        gone, rows = weakref.ref(held.model), request_rows(1, 0, 0, 1.0, held.model.plan())
        export(weights)
        await service.manager.reload("vae")
        # A request that was being read while the version changed: it goes on with what it began with.
        (late,) = await service.engine.submit(held, rows).future
        assert late.tobytes() == before != await service.picture()
        del held
        await asyncio.sleep(0)
        await vanished(gone)


async def test_rows_of_a_replaced_version_are_counted_until_they_end(weights: Path, settings: Settings) -> None:
    async with running(settings.model_copy(update={"engine_threads": 1})) as service:
        may_go_on = threading.Event()
        waiting = service.host.run_exclusive(may_go_on.wait)
        deployment = service.engine.deployments["vae"]
        job = service.engine.submit(deployment, request_rows(3, 0, 0, 1.0, deployment.model.plan()))
        gone = weakref.ref(deployment.model)
        del deployment
        export(weights)
        changing = asyncio.create_task(service.manager.reload("vae"))
        await asyncio.sleep(0.1)
        assert not changing.done()  # its warm-up waits for its turn
        assert service.sample("queued_rows", model="vae") == 3
        may_go_on.set()
        assert waiting.result(10)
        await changing
        assert len(await job.future) == 3
        assert service.sample("queued_rows", model="vae") == service.sample("live_rows", model="vae") == 0
        del job
        await vanished(gone)


async def test_nothing_to_do_is_nothing_done(settings: Settings) -> None:
    async with running(settings) as service:
        deployment = service.engine.deployments["vae"]
        assert (await service.manager.reload("vae")).outcome == "unchanged"
        assert service.engine.deployments["vae"] is deployment


async def test_a_roll_back_goes_to_the_version_that_was_replaced_last(weights: Path, settings: Settings) -> None:
    async with running(settings) as service:
        first = service.version()
        with pytest.raises(NoSuchVersion, match="none"):
            await service.manager.roll_back("vae")
        second = export(weights)
        third = export(weights, shift=-0.5)
        await service.manager.reload("vae")
        assert (await service.manager.roll_back("vae")).version == second
        assert read_manifest(weights / "vae").version == service.version() == second
        assert (await service.manager.roll_back("vae", first)).version == first
        (standing,) = (each for each in await service.manager.statuses() if each.model == "vae")
        assert (standing.manifest_version, standing.earlier_versions) == (first, [second, third])
        with pytest.raises(NoSuchVersion, match=f"{second}, {third}"):
            await service.manager.roll_back("vae", "00000000")
        # What is served after a restart is what was rolled back to.
        assert load_registry(settings, CPU).served["vae"].model.manifest.version == first


async def test_models_are_unloaded_and_loaded(weights: Path, settings: Settings) -> None:
    async with running(settings) as service:
        version, gone = service.version(), weakref.ref(service.engine.deployments["vae"].model)
        with pytest.raises(AlreadyServed):
            await service.manager.load("vae")
        assert await service.manager.unload("vae") == ChangeResult("vae", "unloaded", None, version)
        await vanished(gone)
        assert sorted(service.engine.deployments) == ["ddpm"]
        assert service.sample("model_ready", model="vae") is None
        with pytest.raises(NotServed):
            await service.manager.unload("vae")
        # Only who unloaded it loads it again.
        assert [each.model for each in await service.manager.reload_all() if isinstance(each, ChangeResult)] == ["ddpm"]
        states = {each.model: each.state for each in await service.manager.statuses()}
        assert states == {"ddpm": "serving", "vae": "unloaded"}
        assert (await service.manager.load("vae")).version == version
        assert await service.picture()


async def test_all_is_brought_in_line_with_the_folder(weights: Path, settings: Settings) -> None:
    async with running(settings) as service:
        export(weights, "new")
        export(weights, "broken", decode=Nan())
        shutil.rmtree(weights / "ddpm")
        outcomes = {
            each.model: each.outcome for each in await service.manager.reload_all() if isinstance(each, ChangeResult)
        }
        assert outcomes == {"ddpm": "unloaded", "new": "swapped", "vae": "unchanged"}
        assert sorted(service.engine.deployments) == ["new", "vae"]
        assert list(service.manager.refused) == ["broken"]
        assert not service.manager.ready
        assert service.sample("model_ready", model="broken") == 0
        shutil.rmtree(weights / "broken")
        await service.manager.reload_all()
        assert service.manager.ready
        with pytest.raises(UnknownFolder, match="new, vae"):
            await service.manager.reload("../vae")


async def test_changes_of_one_model_exclude_each_other_and_those_of_others_wait(
    weights: Path, settings: Settings
) -> None:
    async with running(settings) as service:
        export(weights)
        results = await asyncio.gather(
            service.manager.reload("vae"),
            service.manager.reload("vae"),
            service.manager.reload("ddpm"),
            return_exceptions=True,
        )
        assert isinstance(results[1], ChangeUnderWay)
        assert [each.outcome for each in results if isinstance(each, ChangeResult)] == ["swapped", "unchanged"]


async def test_a_watched_folder_is_followed(weights: Path, settings: Settings) -> None:
    async with running(settings) as service:
        background = Background(lambda step: None)
        background.repeat("watch", service.manager.follow, 0.01)
        version = export(weights)
        new = export(weights, "new", shift=0.25)
        while (service.version(), sorted(service.engine.deployments)) != (version, ["ddpm", "new", "vae"]):
            await asyncio.sleep(0.01)
        bad = export(weights, decode=Nan())
        while "vae" not in {each.model for each in await service.manager.statuses() if each.problem}:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert read_manifest(weights / "vae").version == bad != service.version() == version
        # Tried once, not at every look.
        assert service.sample("model_changes_total", model="vae", outcome="failed") == 1
        shutil.rmtree(weights / "new")
        await asyncio.sleep(0.1)
        assert service.version("new") == new
        background.stop()


async def test_a_change_under_way_when_the_service_stops_is_not_made(weights: Path, settings: Settings) -> None:
    async with running(settings.model_copy(update={"engine_threads": 1})) as service:
        first, may_go_on = service.version(), threading.Event()
        service.host.run_exclusive(may_go_on.wait)
        export(weights)
        changing = asyncio.create_task(service.manager.reload("vae"))
        while not service.host._device._exclusive:
            await asyncio.sleep(0.01)
        threading.Timer(0.1, may_go_on.set).start()
        await service.engine.drain(within_s=0.0)
        with pytest.raises(ModelUnusable, match="stopping"):
            await changing
        assert service.version() == first


async def test_memory_is_given_back_when_the_last_request_has_its_answer(
    weights: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = threading.Event()
    monkeypatch.setattr(local_fleet, "trim_memory", given_back.set)
    async with running(settings) as service:
        held = service.engine.deployments["vae"]
        export(weights)
        await service.manager.reload("vae")
        await asyncio.sleep(0.05)
        assert not given_back.is_set()
        del held
        assert await asyncio.to_thread(given_back.wait, 10)


async def test_a_model_is_in_no_cycle(weights: Path, settings: Settings) -> None:
    """What was made at start is taken out of garbage collection: only reference counts can free it."""
    write_autoencoder(weights, "coder")

    gc.disable()
    try:
        async with running(settings) as service:
            for name in ("vae", "ddpm", "coder"):
                deployment = service.engine.deployments[name]
                models = [each.model for each in (deployment, deployment.encoder) if each]
                gone = [weakref.ref(model) for model in models]
                await service.picture(name)
                if deployment.encoder:
                    await service.engine.submit(deployment.encoder, [encode_row(torch.zeros(1, 8, 8), 0)]).future
                await service.manager.unload(name)
                del deployment, models
                await vanished(*gone)
    finally:
        gc.enable()
