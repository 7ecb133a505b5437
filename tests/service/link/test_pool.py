"""Rows that engine processes compute: the same pictures, and none lost when an engine dies."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.engine import Engine
from service.engine.pricing import Part
from service.engine.results import Picture, Preview
from service.engine.rows import Film, RowSpec, encode_row, inversion_row
from service.errors import ComputeFailed
from service.models.registry import Registry
from service.sampling.step import Inpaint
from service.settings import Settings
from tests.service.engine.conftest import local_engine, request_rows, submit
from tests.service.link.linked import EngineProcess, linked

NO_CLASS = 3


def rows_of_all_kinds(registry: Registry) -> dict[str, list[list[RowSpec]]]:
    """Requests by model: every field of a row, alone and together."""
    model = registry.served["ddpm"].model
    latent = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
    plain = request_rows(3, 7, 0, 1.0, model.plan("ddpm", 6))
    guided = request_rows(2, 2**63, 1, 2.5, model.plan("dpmpp_2m", 4))
    return {
        "ddpm": [
            plain,
            guided,
            [row._replace(latent=latent) for row in plain],
            [row._replace(negative_label=2, as_latent=True) for row in guided],
            [row._replace(inpaint=Inpaint((latent > 0).float(), latent)) for row in plain],
            [plain[0], guided[0]],
            [inversion_row(latent, 1, model.inversion_plan(5))],
        ],
        "coder": [request_rows(2, 5, 1, 1.0, registry.served["coder"].model.plan())],
        "coder/encode": [[encode_row(latent, 2)] * 2],
    }


async def results_of(engine: Engine, requests: dict[str, list[list[RowSpec]]]) -> list[list[Picture]]:
    jobs = [submit(engine, name, rows) for name, each in requests.items() for rows in each]
    return [list(await job.future) for job in jobs]


@pytest.fixture
def requests(registry: Registry) -> dict[str, list[list[RowSpec]]]:
    return rows_of_all_kinds(registry)


@pytest.mark.parametrize("engines", [1, 2])
async def test_engines_behind_sockets_give_the_results_of_one_in_this_process(
    registry: Registry, settings: Settings, tmp_path: Path, requests: dict[str, list[list[RowSpec]]], engines: int
) -> None:
    from service.metrics import Metrics

    engine, host = local_engine(registry, settings, Metrics())
    host.start(asyncio.get_running_loop().call_soon_threadsafe)
    expected = await results_of(engine, requests)
    await engine.drain(within_s=10.0)
    async with linked(tmp_path, registry.served, settings, engines) as (remote, _, _):
        found = await results_of(remote, requests)
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(
                one.astype(float), other.astype(float), atol=1 if one.dtype == np.uint8 else 1e-5
            )


async def test_rows_of_a_dead_engine_are_computed_by_its_successor(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    plan = registry.served["ddpm"].model.plan("ddim", 200)
    rows = [row._replace(film=Film(1)) for row in request_rows(3, 1, NO_CLASS, 1.0, plan)]
    seen: list[tuple[int, int]] = []
    async with linked(tmp_path, registry.served, settings) as (engine, pool, processes):
        undisturbed = await submit(engine, "ddpm", rows).future
        job = submit(engine, "ddpm", rows)
        previewed = asyncio.Event()

        def preview(preview: Preview) -> None:
            seen.append((preview.row, preview.step))
            if preview.step == 20:
                previewed.set()

        job.on_preview = preview
        await previewed.wait()
        await asyncio.to_thread(processes[0].end)
        assert not job.done
        meanwhile = submit(engine, "ddpm", rows[:1])
        successor = EngineProcess(tmp_path / "1.sock", registry.served, settings)
        processes[0] = successor
        assert pool.fault == "An engine died and is being replaced."
        await pool.links[0].attach(successor.path, [])
        assert pool.fault is None
        again = await job.future
        assert np.array_equal((await meanwhile.future)[0], undisturbed[0])
    assert all(np.array_equal(one, other) for one, other in zip(undisturbed, again, strict=True))
    for row in range(3):
        steps = [step for each, step in seen if each == row]
        assert steps == sorted({*steps}), "previews went backwards"
        assert steps[-1] == 199


async def test_a_row_in_which_two_engines_died_fails_and_its_neighbours_do_not(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    rows = request_rows(1, 1, NO_CLASS, 1.0, registry.served["ddpm"].model.plan("ddim", 1000))
    async with linked(tmp_path, registry.served, settings) as (engine, pool, processes):
        guilty, neighbour = submit(engine, "ddpm", rows), submit(engine, "ddpm", rows)
        for death in (1, 2):
            await asyncio.to_thread(processes[0].end)
            processes[0] = EngineProcess(tmp_path / f"next{death}.sock", registry.served, settings)
            await pool.links[0].attach(processes[0].path, [guilty.key] if death == 2 else [guilty.key, neighbour.key])
        with pytest.raises(ComputeFailed, match="died twice"):
            await guilty.future
        assert len(await neighbour.future) == 1


async def test_a_cancelled_job_leaves_the_engine(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    rows = request_rows(4, 1, NO_CLASS, 1.0, registry.served["ddpm"].model.plan("ddim", 1000))
    async with linked(tmp_path, registry.served, settings) as (engine, pool, processes):
        submit(engine, "ddpm", rows).cancel()
        assert not pool.working
        short = request_rows(1, 1, NO_CLASS, 1.0, registry.served["ddpm"].model.plan("ddim", 2))
        await submit(engine, "ddpm", short).future
        async with asyncio.timeout(10):
            while processes[0].server.host.working:
                await asyncio.sleep(0.01)


async def test_rows_of_a_process_that_is_gone_are_dropped(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    rows = request_rows(4, 1, NO_CLASS, 1.0, registry.served["ddpm"].model.plan("ddim", 1000))
    async with linked(tmp_path, registry.served, settings) as (engine, pool, processes):
        job = submit(engine, "ddpm", rows)
        while job.started_at is None:
            await asyncio.sleep(0.01)
        pool.stop()
        async with asyncio.timeout(10):
            while processes[0].server.host.working:
                await asyncio.sleep(0.01)
        job.cancel()


async def test_a_failure_of_the_model_is_told(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    async with linked(tmp_path, registry.served, settings) as (engine, _, _):
        with pytest.raises(ComputeFailed, match="not finite"):
            await submit(engine, "coder/encode", [encode_row(torch.full((1, 8, 8), float("nan")), 0)]).future


async def test_rows_go_where_fewer_rows_are_and_not_where_less_work_is(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    plan = registry.served["ddpm"].model.plan
    async with linked(tmp_path, registry.served, settings, engines=2) as (engine, pool, _):
        long = submit(engine, "ddpm", request_rows(1, 1, NO_CLASS, 1.0, plan("ddim", 1000)))
        short = submit(engine, "ddpm", request_rows(3, 2, NO_CLASS, 1.0, plan("ddim", 50)))
        assert [len(link._sent[short.key].rows) for link in pool.links] == [1, 2]
        long.cancel()
        short.cancel()


async def test_two_engines_share_the_rows_of_a_request(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    rows = request_rows(8, 1, NO_CLASS, 1.0, registry.served["ddpm"].model.plan("ddim", 4))
    async with linked(tmp_path, registry.served, settings, engines=2) as (engine, pool, processes):
        job = submit(engine, "ddpm", rows)
        assert [len(each._sent[job.key].rows) for each in pool.links] == [4, 4]
        assert len(await job.future) == 8
        assert [link.turn_ms for link in pool.links] == [0, 0]
        steps = [
            each.metrics.registry.get_sample_value("genserve_steps_total", {"model": "ddpm"}) for each in processes
        ]
        assert steps == [16, 16]


async def test_progress_and_prices_come_from_the_engine(
    registry: Registry, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.progress.REFRESH_S", 0.0)
    rows = request_rows(2, 1, NO_CLASS, 1.0, registry.served["ddpm"].model.plan("ddim", 1000))
    async with linked(tmp_path, registry.served, settings) as (engine, _, processes):
        accepted = engine.admit(engine.deployments["ddpm"], [Part(2, 1000)])
        job = accepted.submit(rows)
        async with asyncio.timeout(10):
            while accepted.progress().calls_left == 2000:
                await asyncio.sleep(0.01)
        assert 0 < accepted.progress().calls_left < 2000
        lane = processes[0].server.lane(1)
        assert lane is not None
        accepted.close()
        assert job.cancelled
