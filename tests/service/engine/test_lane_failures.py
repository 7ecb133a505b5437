"""A lane whose network raises, runs out of memory, or gives what is no picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.contract.manifest import SolverName
from service.engine.model import Model
from service.engine.rows import RowSpec
from service.errors import ComputeFailed
from tests.service.engine.conftest import LaneOf, Watched, drain, pictures_of, put, request_rows, sample, tick

NO_CLASS = 3


@pytest.mark.parametrize(("room", "bucket"), [(7, 4), (4, 4), (3, 2), (1, 1)])
async def test_a_call_that_does_not_fit_is_halved_and_every_row_is_served(
    one_shot: Model, lane_of: LaneOf, room: int, bucket: int
) -> None:
    rows = request_rows(24, 0, 1, 1.0, one_shot.plan())
    expected = await pictures_of(lane_of(one_shot, rows=32, bucket=8), rows)
    watched = Watched(one_shot, room)
    lane = lane_of(watched.model, rows=32, bucket=8)
    for picture, whole in zip(await pictures_of(lane, rows), expected, strict=True):
        np.testing.assert_allclose(picture.astype(int), whole.astype(int), atol=1)
    assert lane.cost.best_bucket == bucket
    assert watched.refused > 0
    assert sample(lane.metrics.out_of_memory) == sample(lane.metrics.split_calls) == watched.refused

    watched.calls.clear()
    await pictures_of(lane, rows)
    assert max(watched.calls) == bucket  # it stays so
    assert watched.refused == 0


async def test_a_call_of_guided_rows_that_does_not_fit_is_halved_as_a_call(diffusion: Model, lane_of: LaneOf) -> None:
    """Four guided rows are a call of eight: half of that, not of four, is what may fit."""

    watched = Watched(diffusion, room=4)
    lane = lane_of(watched.model, rows=8, bucket=8)
    rows = request_rows(4, 0, 1, 2.0, diffusion.plan("ddim", 3))
    assert len(await pictures_of(lane, rows)) == 4
    assert watched.calls[:3] == [8, 4, 4]
    assert lane.cost.best_bucket == 4
    assert sample(lane.metrics.out_of_memory) == 1


async def test_prices_change_when_a_tick_is_settled_and_not_while_it_computes(one_shot: Model, lane_of: LaneOf) -> None:
    """Computing is outside the lock, under which other threads read the bucket."""

    lane = lane_of(Watched(one_shot, room=2).model, rows=8, bucket=8)
    put(lane, request_rows(8, 0, NO_CLASS, 1.0, one_shot.plan()))
    result = lane.compute(lane.claim(None, 1))
    assert (lane.cost.best_bucket, result.out_of_memory_rows) == (8, 4)
    lane.complete_tick(result, spent_ms=1.0)
    assert lane.cost.best_bucket == 2


async def test_a_row_that_does_not_fit_alone_fails_and_its_neighbours_do_not(one_shot: Model, lane_of: LaneOf) -> None:
    watched = Watched(one_shot, room=0)
    lane = lane_of(watched.model, rows=8, bucket=8)
    job = put(lane, request_rows(1, 0, NO_CLASS, 1.0, one_shot.plan()))
    drain(lane)
    with pytest.raises(ComputeFailed, match="OutOfMemoryError"):
        await job.future
    assert lane.cost.best_bucket == 1
    assert (sample(lane.metrics.out_of_memory), sample(lane.metrics.split_calls)) == (1, 0)
    watched.room = 1
    assert len(await pictures_of(lane, request_rows(3, 0, NO_CLASS, 1.0, one_shot.plan()))) == 3


@pytest.mark.parametrize("place", [0, 5, 7])
async def test_calls_that_are_split_are_counted(one_shot: Model, lane_of: LaneOf, place: int) -> None:
    lane = lane_of(one_shot, rows=8, bucket=8)
    jobs = [put(lane, request_rows(1, seed, NO_CLASS, 1.0, one_shot.plan())) for seed in range(8) if seed != place]
    jobs.insert(place, put(lane, [RowSpec(0, NO_CLASS, 1.0, one_shot.plan(), torch.full((4,), 101.0))]))
    assert tick(lane) == 8
    assert lane.is_empty
    # Eight rows, four, two; the row that is left alone is not split.
    assert (sample(lane.metrics.split_calls), sample(lane.metrics.out_of_memory)) == (3, 0)
    assert lane.cost.best_bucket == 8
    failures = [job.future.exception() for job in jobs]
    assert [isinstance(failure, ComputeFailed) for failure in failures] == [index == place for index in range(8)]


@pytest.mark.parametrize(("rows", "spent_ms"), [(1, 1e-6), (1, 1e6), (4, 1e6)])
async def test_a_call_that_raised_says_nothing_of_what_calls_cost(
    one_shot: Model, lane_of: LaneOf, rows: int, spent_ms: float
) -> None:
    lane = lane_of(one_shot, rows=8, bucket=4)
    poison = RowSpec(0, NO_CLASS, 1.0, one_shot.plan(), torch.full((4,), 101.0))
    job = put(lane, [poison] * rows)
    tick(lane, spent_ms=spent_ms)
    assert job.future.exception() is not None
    assert lane.cost.ratio == 1.0
    assert lane.served_ms == spent_ms  # but it took the device's time


@pytest.mark.parametrize("number", [101.0, -101.0, float("nan")])
async def test_a_poisoned_row_fails_alone(one_shot: Model, lane_of: LaneOf, number: float) -> None:
    lane = lane_of(one_shot, rows=8, bucket=8)
    before = put(lane, request_rows(3, 0, NO_CLASS, 1.0, one_shot.plan()))
    poison = put(lane, [RowSpec(0, NO_CLASS, 1.0, one_shot.plan(), torch.tensor([number, 0.0, 0.0, 0.0]))])
    after = put(lane, request_rows(3, 0, NO_CLASS, 1.0, one_shot.plan()))
    assert tick(lane) == 7
    with pytest.raises(ComputeFailed):
        await poison.future
    np.testing.assert_allclose(
        np.stack(await before.future).astype(int), np.stack(await after.future).astype(int), atol=1
    )
    failed = {reason: sample(counter) for reason, counter in lane.metrics.failed_rows.items()}
    assert failed == {"raised": number > 0, "not-finite": not number > 0, "engine": 0}


async def test_rows_that_the_engine_gives_up_are_counted(one_shot: Model, lane_of: LaneOf) -> None:
    lane = lane_of(one_shot, rows=8, bucket=8)
    put(lane, request_rows(3, 0, NO_CLASS, 1.0, one_shot.plan()))
    lane.complete_tick(lane.fail_tick(lane.claim(None, 1)), spent_ms=250)
    failed = {reason: sample(counter) for reason, counter in lane.metrics.failed_rows.items()}
    assert failed == {"raised": 0, "not-finite": 0, "engine": 3}
    assert sample(lane.metrics.device_seconds) == 0.25


async def test_a_poisoned_row_leaves_nothing_behind(one_shot: Model, lane_of: LaneOf) -> None:
    lane = lane_of(one_shot, rows=1, bucket=1)
    expected = await pictures_of(lane, request_rows(1, 5, NO_CLASS, 1.0, one_shot.plan()))
    for number in (101.0, -101.0, float("nan")):
        poison = torch.tensor([number, 0.0, 0.0, 0.0])
        job = put(lane, [RowSpec(5, NO_CLASS, 1.0, one_shot.plan(), poison)])
        drain(lane)
        with pytest.raises(ComputeFailed):
            await job.future
    again = await pictures_of(lane, request_rows(1, 5, NO_CLASS, 1.0, one_shot.plan()))
    np.testing.assert_array_equal(again[0], expected[0])


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan")])
async def test_what_is_not_finite_is_no_picture(diffusion: Model, lane_of: LaneOf, number: float) -> None:
    """Clamping would make a white picture of infinity."""

    model = replace(diffusion, denoise=lambda x, _t, _label: torch.full_like(x, number))
    job = put(lane := lane_of(model), request_rows(1, 0, NO_CLASS, 1.0, model.plan("ddim", 2)))
    drain(lane)
    with pytest.raises(ComputeFailed, match="not finite"):
        await job.future


async def test_a_latent_of_nan_leaves_nothing_behind_in_any_solver(diffusion: Model, lane_of: LaneOf) -> None:
    """Every place of the table held NaN, in the latent and in the prediction before: 0 * NaN is NaN."""

    lane = lane_of(diffusion, rows=2, bucket=2)
    poison = torch.full((1, 8, 8), float("nan"))
    solvers: tuple[SolverName, ...] = ("ddpm", "ddim", "dpmpp_2m")
    for solver in solvers:
        rows = request_rows(2, 7, 1, 1.0, diffusion.plan(solver, 5))
        expected = await pictures_of(lane_of(diffusion, rows=2, bucket=2), rows)
        job = put(lane, [RowSpec(0, NO_CLASS, 1.0, diffusion.plan("dpmpp_2m", 4), poison)] * 2)
        drain(lane)
        assert isinstance(job.future.exception(), ComputeFailed)
        np.testing.assert_array_equal(await pictures_of(lane, rows), expected)
