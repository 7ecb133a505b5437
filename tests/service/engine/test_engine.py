"""The engine from submit to pictures: sharing, determinism, bounds, drain."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.engine import Engine
from service.engine.registry import Registry, load_registry
from service.engine.rows import RowSpec, interpolation_rows
from service.errors import ModelUnavailable, Overloaded
from service.metrics import Metrics
from service.sampling.noise import RowNoise
from service.settings import Settings
from tests.service.engine.conftest import CPU, request_rows

NO_CLASS = 3


@pytest.fixture
def registry(weights: Path) -> Registry:
    return load_registry(weights, CPU, max_bucket=8)


@pytest.fixture
def running(registry: Registry, settings: Settings) -> Callable[..., object]:
    @asynccontextmanager
    async def run(**changes: object) -> AsyncIterator[tuple[Engine, Metrics]]:
        metrics = Metrics()
        engine = Engine(registry, CPU, settings.model_copy(update=changes), metrics)
        engine.start()
        try:
            yield engine, metrics
        finally:
            await engine.drain(within_s=10.0)

    return run


def mixed_rows(registry: Registry) -> list[list[RowSpec]]:
    """Requests of every solver, several step counts, classes, guidance scales and sizes."""
    plan = registry.served["ddpm"].model.plan
    return [
        request_rows(1, 7, 0, 1.0, plan("ddpm", 12)),
        request_rows(3, 2**32 - 1, 1, 2.0, plan("ddim", 5)),
        request_rows(5, 11, NO_CLASS, 1.0, plan("dpmpp_2m", 9)),
        request_rows(2, 7, 2, 0.0, plan("ddpm", 3)),
    ]


def test_same_seed_same_picture_alone_or_among_others(registry: Registry, running: Callable[..., object]) -> None:
    async def scenario() -> None:
        async with running() as (engine, _):  # type: ignore[attr-defined]
            requests = mixed_rows(registry)
            jobs = [engine.submit("ddpm", rows) for rows in requests * 3]
            together = await asyncio.gather(*(job.future for job in jobs))
            for rows, *copies in zip(requests, together[:4], together[4:8], together[8:], strict=True):
                for index, row in enumerate(rows):
                    alone = (await engine.submit("ddpm", [row]).future)[0].astype(int)
                    for copy in copies:
                        assert np.abs(copy[index].astype(int) - alone).max() <= 1

    asyncio.run(scenario())


def test_concurrent_requests_share_batches(registry: Registry, running: Callable[..., object]) -> None:
    async def scenario() -> None:
        async with running(engine_threads=1) as (engine, metrics):  # type: ignore[attr-defined]
            jobs = [engine.submit("ddpm", rows) for rows in mixed_rows(registry) for _ in range(4)]
            await asyncio.gather(*(job.future for job in jobs))
        calls = sum(row.calls for rows in mixed_rows(registry) for row in rows) * 4
        ticks = metrics.registry.get_sample_value("genserve_tick_rows_count", {"model": "ddpm"})
        rows = metrics.registry.get_sample_value("genserve_tick_rows_sum", {"model": "ddpm"})
        assert rows == calls
        assert ticks is not None
        assert ticks < calls / 2

    asyncio.run(scenario())


def test_picture_i_is_the_picture_of_seed_plus_i(running: Callable[..., object], registry: Registry) -> None:
    async def scenario() -> None:
        async with running() as (engine, _):  # type: ignore[attr-defined]
            plan = registry.served["vae"].model.plan()
            many = await engine.submit("vae", request_rows(4, 2**32 - 2, 0, 1.0, plan)).future
            for index, seed in enumerate([2**32 - 2, 2**32 - 1, 0, 1]):
                alone = (await engine.submit("vae", request_rows(1, seed, 0, 1.0, plan)).future)[0]
                assert np.abs(many[index].astype(int) - alone.astype(int)).max() <= 1
            assert len({picture.tobytes() for picture in many}) == 4

    asyncio.run(scenario())


def test_an_interpolation_begins_and_ends_at_its_seeds(running: Callable[..., object], registry: Registry) -> None:
    async def scenario() -> None:
        async with running() as (engine, _):  # type: ignore[attr-defined]
            for name in ("vae", "ddpm"):
                model = registry.served[name].model
                plan = model.plan()
                frames = await engine.submit(name, interpolation_rows(model, (3, 9), 5, "slerp", 1, 1.0, plan)).future
                for frame, seed in ((frames[0], 3), (frames[-1], 9)):
                    alone = (await engine.submit(name, request_rows(1, seed, 1, 1.0, plan)).future)[0]
                    assert np.abs(frame.astype(int) - alone.astype(int)).max() <= 1

    asyncio.run(scenario())


def test_a_full_queue_refuses_with_a_time_to_come_back(running: Callable[..., object], registry: Registry) -> None:
    async def scenario() -> None:
        async with running(max_queue_ms=0.001) as (engine, _):  # type: ignore[attr-defined]
            plan = registry.served["ddpm"].model.plan("ddim", 500)
            first = engine.submit("ddpm", request_rows(2, 0, 0, 1.0, plan))
            with pytest.raises(Overloaded) as refusal:
                engine.submit("ddpm", request_rows(2, 0, 0, 1.0, plan))
            assert refusal.value.retry_after_s is not None
            assert refusal.value.retry_after_s >= 1
            # The other model's queue is its own.
            vae = engine.submit("vae", request_rows(1, 0, 0, 1.0, registry.served["vae"].model.plan()))
            await asyncio.gather(first.future, vae.future)
            await engine.submit("ddpm", request_rows(1, 0, 0, 1.0, registry.served["ddpm"].model.plan())).future

    asyncio.run(scenario())


def test_a_cancelled_job_gives_its_price_and_its_places_back(
    running: Callable[..., object], registry: Registry
) -> None:
    async def scenario() -> None:
        async with running(max_queue_ms=0.001) as (engine, metrics):  # type: ignore[attr-defined]
            plan = registry.served["ddpm"].model.plan("ddim", 1000)
            job = engine.submit("ddpm", request_rows(8, 0, 0, 1.0, plan))
            job.cancel()
            await asyncio.sleep(0)
            short = engine.submit("ddpm", request_rows(1, 0, 0, 1.0, registry.served["ddpm"].model.plan()))
            assert len(await short.future) == 1
        for gauge in ("genserve_live_rows", "genserve_queued_rows"):
            assert metrics.registry.get_sample_value(gauge, {"model": "ddpm"}) == 0

    asyncio.run(scenario())


def test_draining_finishes_what_was_accepted_and_takes_nothing_new(
    running: Callable[..., object], registry: Registry
) -> None:
    async def scenario() -> None:
        async with running() as (engine, _):  # type: ignore[attr-defined]
            rows = request_rows(4, 0, 0, 1.0, registry.served["ddpm"].model.plan("ddim", 50))
            job = engine.submit("ddpm", rows)
            draining = asyncio.create_task(engine.drain(within_s=30.0))
            await asyncio.sleep(0)
            with pytest.raises(ModelUnavailable):
                engine.submit("ddpm", rows)
            assert len(await job.future) == 4
            await draining

    asyncio.run(scenario())


def test_a_price_counts_steps_and_guidance(running: Callable[..., object], registry: Registry) -> None:
    """Room for 100 rows of network calls: two guided pictures of 20 steps are 80 of them, one plain one of 10 is 10."""

    async def scenario() -> None:
        room = registry.served["ddpm"].cost.price_ms(100)
        async with running(max_queue_ms=room) as (engine, _):  # type: ignore[attr-defined]
            plan = registry.served["ddpm"].model.plan
            guided = request_rows(2, 0, 0, 3.0, plan("ddim", 20))
            accepted = [
                engine.submit("ddpm", guided),
                engine.submit("ddpm", request_rows(1, 0, 0, 1.0, plan("ddim", 10))),
            ]
            with pytest.raises(Overloaded):
                engine.submit("ddpm", request_rows(1, 0, 0, 1.0, plan("ddim", 11)))
            accepted.append(engine.submit("ddpm", request_rows(1, 0, 0, 1.0, plan("ddim", 9))))
            await asyncio.gather(*(job.future for job in accepted))

    asyncio.run(scenario())


def test_rows_are_told_apart_only_by_what_decides_them(registry: Registry) -> None:
    model = registry.served["vae"].model
    frames = interpolation_rows(model, (1, 2), 3, "linear", 0, 1.0, model.plan())
    start, end = (RowNoise(seed).draw(model.manifest.latent_shape) for seed in (1, 2))
    latents = [frame.latent for frame in frames if frame.latent is not None]
    torch.testing.assert_close(torch.stack(latents), torch.stack([start, (start + end) / 2, end]))
