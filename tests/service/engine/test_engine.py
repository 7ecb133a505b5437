"""The engine from submit to pictures: sharing, determinism, bounds, drain."""

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from service.engine.delivery import deliver
from service.engine.pricing import Part
from service.engine.results import Picture, Preview
from service.engine.rows import Film, RowSpec, encode_row, inversion_row
from service.engine.submission import Submission
from service.engine.table import LiveRow
from service.errors import ComputeFailed, DeadlineExceeded, ModelUnavailable, Overloaded, ShareExceeded, TooLate
from service.models.registry import Registry
from service.sampling.pixels import to_uint8
from service.sampling.solvers import EMPTY_PLAN
from tests.service.engine.conftest import request_rows, submit

NO_CLASS = 3


def mixed_rows(registry: Registry) -> list[list[RowSpec]]:
    """Requests of every solver, several step counts, classes, guidance scales and sizes."""
    plan = registry.served["ddpm"].model.plan
    return [
        request_rows(1, 7, 0, 1.0, plan("ddpm", 12)),
        request_rows(3, 2**32 - 1, 1, 2.0, plan("ddim", 5)),
        request_rows(5, 11, NO_CLASS, 1.0, plan("dpmpp_2m", 9)),
        request_rows(2, 7, 2, 0.0, plan("ddpm", 3)),
    ]


async def test_same_seed_same_picture_alone_or_among_others(registry: Registry, running: Callable[..., object]) -> None:
    async with running() as (engine, _):  # type: ignore[attr-defined]
        requests = mixed_rows(registry)
        jobs = [submit(engine, "ddpm", rows) for rows in requests * 3]
        together = await asyncio.gather(*(job.future for job in jobs))
        for rows, *copies in zip(requests, together[:4], together[4:8], together[8:], strict=True):
            for index, row in enumerate(rows):
                alone = (await submit(engine, "ddpm", [row]).future)[0].astype(int)
                for copy in copies:
                    assert np.abs(copy[index].astype(int) - alone).max() <= 1


@pytest.mark.parametrize(("asked", "threads"), [(1, 1), (2, 2), (0, 3)])
async def test_threads_are_those_of_the_setting_or_the_usable_cores(
    asked: int, threads: int, running: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.device.usable_cores", lambda: 3)

    async with running(engine_threads=asked) as (_, metrics):  # type: ignore[attr-defined]
        assert metrics.registry.get_sample_value("genserve_engine_threads") == threads
        named = [thread for thread in threading.enumerate() if thread.name.startswith("engine-")]
        assert len(named) == threads


async def test_concurrent_requests_share_batches(registry: Registry, running: Callable[..., object]) -> None:
    async with running(engine_threads=1) as (engine, metrics):  # type: ignore[attr-defined]
        jobs = [submit(engine, "ddpm", rows) for rows in mixed_rows(registry) for _ in range(4)]
        await asyncio.gather(*(job.future for job in jobs))
    calls = sum(row.calls for rows in mixed_rows(registry) for row in rows) * 4
    ticks = metrics.registry.get_sample_value("genserve_tick_rows_count", {"model": "ddpm"})
    rows = metrics.registry.get_sample_value("genserve_tick_rows_sum", {"model": "ddpm"})
    assert rows == calls
    assert ticks is not None
    assert ticks < calls / 2


async def test_picture_i_is_the_picture_of_seed_plus_i(running: Callable[..., object], registry: Registry) -> None:
    async with running() as (engine, _):  # type: ignore[attr-defined]
        plan = registry.served["vae"].model.plan()
        many = await submit(engine, "vae", request_rows(4, 2**32 - 2, 0, 1.0, plan)).future
        for index, seed in enumerate([2**32 - 2, 2**32 - 1, 0, 1]):
            alone = (await submit(engine, "vae", request_rows(1, seed, 0, 1.0, plan)).future)[0]
            assert np.abs(many[index].astype(int) - alone.astype(int)).max() <= 1
        assert len({picture.tobytes() for picture in many}) == 4


async def test_a_full_queue_refuses_with_a_time_to_come_back(
    running: Callable[..., object], registry: Registry
) -> None:
    async with running(max_queue_ms=0.001) as (engine, _):  # type: ignore[attr-defined]
        plan = registry.served["ddpm"].model.plan("ddim", 500)
        first = submit(engine, "ddpm", request_rows(2, 0, 0, 1.0, plan))
        with pytest.raises(Overloaded) as refusal:
            submit(engine, "ddpm", request_rows(2, 0, 0, 1.0, plan))
        assert refusal.value.retry_after_s is not None
        assert refusal.value.retry_after_s >= 1
        # The other model's queue is its own.
        vae = submit(engine, "vae", request_rows(1, 0, 0, 1.0, registry.served["vae"].model.plan()))
        await asyncio.gather(first.future, vae.future)
        await submit(engine, "ddpm", request_rows(1, 0, 0, 1.0, registry.served["ddpm"].model.plan())).future


async def test_a_cancelled_job_gives_its_price_and_its_places_back(
    running: Callable[..., object], registry: Registry
) -> None:
    async with running(max_queue_ms=0.001) as (engine, metrics):  # type: ignore[attr-defined]
        plan = registry.served["ddpm"].model.plan("ddim", 1000)
        job = submit(engine, "ddpm", request_rows(8, 0, 0, 1.0, plan))
        job.cancel()
        short = submit(engine, "ddpm", request_rows(1, 0, 0, 1.0, registry.served["ddpm"].model.plan()))
        assert len(await short.future) == 1
    for gauge in ("genserve_live_rows", "genserve_queued_rows"):
        assert metrics.registry.get_sample_value(gauge, {"model": "ddpm"}) == 0


@pytest.mark.parametrize("end", ["fails", "is cancelled", "is waited for no longer"])
async def test_a_job_that_ends_badly_gives_its_price_back_at_once(
    running: Callable[..., object], registry: Registry, end: str
) -> None:
    async with running(start=False, max_queue_ms=0.001) as (engine, _):  # type: ignore[attr-defined]
        rows = request_rows(1, 0, 0, 1.0, registry.served["ddpm"].model.plan())
        job = submit(engine, "ddpm", rows)
        with pytest.raises(Overloaded):
            submit(engine, "ddpm", rows)
        if end == "fails":
            job.fail(DeadlineExceeded("late"))
            assert job.future.exception()
        else:
            if end == "is waited for no longer":
                job.future.cancel()
            job.cancel()
        again = submit(engine, "ddpm", rows)
    assert len(await again.future) == 1


async def test_a_client_has_its_share_of_a_models_queue(running: Callable[..., object], registry: Registry) -> None:
    room = 100 * registry.served["ddpm"].cost.row_ms()
    async with running(start=False, max_queue_ms=room, client_share=0.5) as (engine, _):  # type: ignore[attr-defined]
        rows = request_rows(1, 0, 0, 1.0, registry.served["ddpm"].model.plan("ddim", 30))
        jobs = [submit(engine, "ddpm", rows, "this")]
        with pytest.raises(ShareExceeded):
            submit(engine, "ddpm", rows, "this")
        jobs.append(submit(engine, "ddpm", rows, "other"))
        # Each model's queue is its own.
        jobs.append(submit(engine, "vae", request_rows(1, 0, 0, 1.0, registry.served["vae"].model.plan()), "this"))
    for job in jobs:
        assert len(await job.future) == 1


async def test_what_would_come_too_late_is_refused_and_what_is_short_enough_is_not(
    running: Callable[..., object], registry: Registry
) -> None:
    async with running(start=False, max_queue_ms=1e9) as (engine, _):  # type: ignore[attr-defined]
        plan = registry.served["ddpm"].model.plan
        long = request_rows(8, 0, 0, 1.0, plan("ddim", 1000))
        for _ in range(100):
            submit(engine, "ddpm", long).cancel()  # which is not quickly done: it is not done at all
        first = submit(engine, "ddpm", long)
        # What two threads need for 4,000 rows of calls: half of what is accepted.
        half_s = 4000 * registry.served["ddpm"].cost.row_ms() / (2 * 1000)
        with pytest.raises(TooLate) as refusal:
            submit(engine, "ddpm", long, within_s=half_s)
        assert refusal.value.retry_after_s is not None
        assert refusal.value.retry_after_s >= 1
        short = submit(engine, "ddpm", request_rows(1, 0, 0, 1.0, plan("ddim", 4)), within_s=half_s)
        first.cancel()
        short.cancel()


async def test_a_request_without_any_time_is_not_computed(running: Callable[..., object], registry: Registry) -> None:
    async with running() as (engine, metrics):  # type: ignore[attr-defined]
        rows = request_rows(3, 0, 0, 1.0, registry.served["ddpm"].model.plan())
        late = submit(engine, "ddpm", rows, within_s=0.0)
        await submit(engine, "ddpm", rows, within_s=60.0).future
    assert late.started_at is None
    assert not late.done  # it is for the caller to tell the client
    late.cancel()
    samples = {
        name: metrics.registry.get_sample_value(f"genserve_{name}", {"model": "ddpm", **labels})
        for name, labels in (("tick_rows_sum", {}), ("dropped_rows_total", {"stage": "queued"}))
    }
    assert samples == {"tick_rows_sum": 3 * 4, "dropped_rows_total": 3}


async def test_draining_finishes_what_was_accepted_and_takes_nothing_new(
    running: Callable[..., object], registry: Registry
) -> None:
    async with running() as (engine, _):  # type: ignore[attr-defined]
        rows = request_rows(4, 0, 0, 1.0, registry.served["ddpm"].model.plan("ddim", 50))
        job = submit(engine, "ddpm", rows)
        draining = asyncio.create_task(engine.drain(within_s=30.0))
        await asyncio.sleep(0)
        with pytest.raises(ModelUnavailable):
            submit(engine, "ddpm", rows)
        assert len(await job.future) == 4
        await draining


async def test_a_price_counts_steps_and_guidance(running: Callable[..., object], registry: Registry) -> None:
    """The queue takes 100 forward-pass rows: two guided pictures of 20 steps need 80, a plain one of 10 steps 10."""

    room = 100 * registry.served["ddpm"].cost.row_ms()
    # Not started: what it computes corrects the price of a row.
    async with running(start=False, max_queue_ms=room, client_share=1.0) as (engine, _):  # type: ignore[attr-defined]
        plan = registry.served["ddpm"].model.plan
        guided = request_rows(2, 0, 0, 3.0, plan("ddim", 20))
        accepted = [
            submit(engine, "ddpm", guided),
            submit(engine, "ddpm", request_rows(1, 0, 0, 1.0, plan("ddim", 10))),
        ]
        with pytest.raises(Overloaded):
            submit(engine, "ddpm", request_rows(1, 0, 0, 1.0, plan("ddim", 11)))
        accepted.append(submit(engine, "ddpm", request_rows(1, 0, 0, 1.0, plan("ddim", 9))))
    for job in accepted:
        assert await job.future


async def test_encoded_pictures_are_what_the_model_encodes(running: Callable[..., object], registry: Registry) -> None:
    async with running() as (engine, metrics):  # type: ignore[attr-defined]
        model = registry.served["coder"].model
        pictures, label = torch.rand(11, 1, 8, 8) * 2 - 1, torch.arange(11) % 4
        rows = [encode_row(picture, int(each)) for picture, each in zip(pictures, label, strict=True)]
        encoded = torch.from_numpy(np.stack(await submit(engine, "coder/encode", rows).future))
        assert model.encode is not None
        torch.testing.assert_close(encoded, torch.stack(model.encode(pictures, {"label": label}), dim=1))
        # And decoded again, what the model's own decoder gives.
        again = [RowSpec(0, row.label, 1.0, model.plan(), each[0]) for row, each in zip(rows, encoded, strict=True)]
        made = np.stack(await submit(engine, "coder", again).future)
        expected = to_uint8(model.decode(encoded[:, 0], {"label": label})).numpy()
        assert np.abs(made.astype(int) - expected.astype(int)).max() <= 1
        assert metrics.registry.get_sample_value("genserve_tick_rows_sum", {"model": "coder/encode"}) == 11
        with pytest.raises(ValueError, match="vae has no encoder"):
            engine.admit(engine.deployments["vae"], [Part(1, 1, encodes=True)])


async def test_encoding_is_bounded_and_cancelled_as_all_work_is(
    running: Callable[..., object], registry: Registry
) -> None:
    async with running(start=False, max_queue_ms=1e-6) as (engine, metrics):  # type: ignore[attr-defined]
        rows = [encode_row(torch.zeros(1, 8, 8), 0)] * 3
        first = submit(engine, "coder/encode", rows)
        with pytest.raises(Overloaded):
            submit(engine, "coder/encode", rows)
        first.cancel()
        second = submit(engine, "coder/encode", rows[:1])
    assert len(await second.future) == 1
    dropped = {"model": "coder/encode", "stage": "queued"}
    assert metrics.registry.get_sample_value("genserve_dropped_rows_total", dropped) == 3


async def test_a_picture_that_encodes_to_nan_fails(running: Callable[..., object], registry: Registry) -> None:
    async with running() as (engine, _):  # type: ignore[attr-defined]
        with pytest.raises(ComputeFailed, match="not finite"):
            await submit(engine, "coder/encode", [encode_row(torch.full((1, 8, 8), float("nan")), 0)]).future


async def test_inverted_latents_and_their_pictures(running: Callable[..., object], registry: Registry) -> None:
    async with running() as (engine, _):  # type: ignore[attr-defined]
        model = registry.served["ddpm"].model
        row = inversion_row(torch.zeros(1, 8, 8), 1, model.inversion_plan(6))
        first, second = await submit(engine, "ddpm", [row, row]).future
        assert first.dtype == np.float32
        assert first.shape == (1, 8, 8)
        np.testing.assert_allclose(first, second, rtol=1e-5)


async def test_rows_of_one_request_may_differ_in_everything(running: Callable[..., object], registry: Registry) -> None:
    async with running() as (engine, _):  # type: ignore[attr-defined]
        rows = [row for rows in mixed_rows(registry) for row in rows]
        together = await submit(engine, "ddpm", rows).future
        for row, picture in zip(rows, together, strict=True):
            alone = (await submit(engine, "ddpm", [row]).future)[0]
            assert np.abs(picture.astype(int) - alone.astype(int)).max() <= 1


@pytest.mark.parametrize("threads", [1, 3])
async def test_previews_come_in_order_and_before_their_picture(
    running: Callable[..., object], registry: Registry, threads: int
) -> None:
    async with running(engine_threads=threads) as (engine, _):  # type: ignore[attr-defined]
        plan = registry.served["ddpm"].model.plan("ddim", 40)
        rows = [row._replace(film=Film(3, "both")) for row in request_rows(9, 0, 0, 1.0, plan)]
        seen: dict[int, list[int | str]] = {row: [] for row in range(9)}

        def preview(preview: Preview) -> None:
            assert preview.x_t is not None
            assert preview.x_start is not None
            assert preview.steps == 40
            seen[preview.row].append(preview.step)

        job = submit(engine, "ddpm", rows)
        job.on_preview = preview
        job.on_result = lambda row, _: seen[row].append("result")
        await job.future
        assert seen == {row: [*range(0, 40, 3), "result"] for row in range(9)}


async def test_a_job_that_cannot_take_its_result_leaves_the_others_theirs() -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError

    jobs: list[Submission[Picture]] = [Submission(1) for _ in range(4)]
    rows = [LiveRow(job, 0, RowSpec(0, 0, 1.0, EMPTY_PLAN)) for job in jobs]
    jobs[0].on_result = jobs[1].on_preview = fault
    picture = np.zeros((8, 8, 1), np.uint8)
    preview = Preview(0, 0, 1, 1.0, picture, None)
    deliver([(row, picture) for row in rows[:1] + rows[2:]], [(row, preview) for row in rows[1:3]], now=1.0)
    assert [type(job.future.exception()) for job in jobs[:2]] == [ComputeFailed, ComputeFailed]
    assert [len(await job.future) for job in jobs[2:]] == [1, 1]
