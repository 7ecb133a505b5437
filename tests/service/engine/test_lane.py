"""The lane under random schedules: whatever joins, leaves or fails, each picture is what it would be alone."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.admission.job import Job
from service.engine.cost import CostModel
from service.engine.lane import Lane
from service.engine.model import Model, load_model
from service.engine.rows import RowSpec
from service.engine.table import LiveRow, Picture
from service.errors import ComputeFailed
from service.metrics import Metrics
from tests.service.artefacts import PoisonDecode, write_diffusion, write_one_shot
from tests.service.engine.conftest import CPU, request_rows

NO_CLASS = 3


def put(lane: Lane, rows: list[RowSpec]) -> Job[Picture]:
    """A job with these rows, queued; needs a running event loop."""
    job: Job[Picture] = Job(len(rows), submitted_at=0.0)
    lane.put([LiveRow(job, index, row) for index, row in enumerate(rows)])
    return job


def tick(lane: Lane, threads: int = 1) -> int:
    """One claim, compute, settle and delivery; the number of rows served."""
    slots = lane.claim(None, threads)
    if len(slots) == 0:
        return 0
    ticked = lane.compute(slots)
    lane.settle(ticked)
    for row, outcome in ticked.ended:
        if isinstance(outcome, ComputeFailed):
            row.job.fail(outcome)
        else:
            row.job.deliver(row.index, outcome, now=1.0)
    return len(slots)


def drain(lane: Lane) -> None:
    for _ in range(10_000):
        if lane.is_empty:
            return
        tick(lane)
    raise AssertionError("the lane does not come to an end")


LaneOf = Callable[..., Lane]


async def pictures_of(lane: Lane, rows: list[RowSpec]) -> list[Picture]:
    job = put(lane, rows)
    drain(lane)
    return list(await job.future)


def test_short_plans_end_while_long_ones_run(diffusion: Model, lane_of: LaneOf) -> None:
    async def scenario() -> None:
        lane = lane_of(diffusion, rows=64, bucket=4)
        long = put(lane, request_rows(32, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 100)))
        tick(lane)
        short = put(lane, request_rows(1, 99, NO_CLASS, 1.0, diffusion.plan("ddim", 3)))
        ticks = 0
        while not short.done:
            tick(lane)
            ticks += 1
        # 33 rows in turn through a bucket of 4: each of its 3 steps waits at most 9 ticks for its turn.
        assert ticks <= 3 * 9
        assert not long.done

    asyncio.run(scenario())


def test_a_large_request_does_not_hold_up_a_small_one(one_shot: Model, lane_of: LaneOf) -> None:
    async def scenario() -> None:
        lane = lane_of(one_shot, rows=4, bucket=4)
        large = put(lane, request_rows(64, 0, NO_CLASS, 1.0, one_shot.plan()))
        tick(lane)
        small = put(lane, request_rows(1, 7, NO_CLASS, 1.0, one_shot.plan()))
        tick(lane)
        assert small.done
        assert not large.done

    asyncio.run(scenario())


def test_free_threads_share_the_ready_rows(one_shot: Model, lane_of: LaneOf) -> None:
    async def scenario() -> None:
        lane = lane_of(one_shot, rows=8, bucket=8)
        put(lane, request_rows(6, 0, NO_CLASS, 1.0, one_shot.plan()))
        assert len(lane.claim(None, threads=2)) == 3

    asyncio.run(scenario())


def test_guided_rows_take_two_places_in_a_call(diffusion: Model, lane_of: LaneOf) -> None:
    async def scenario() -> None:
        lane = lane_of(diffusion, rows=8, bucket=4)
        put(lane, request_rows(4, 0, 1, 2.0, diffusion.plan()))
        assert len(lane.claim(None, threads=1)) == 2

    asyncio.run(scenario())


def test_a_guided_row_passes_even_through_a_bucket_of_one(diffusion: Model, lane_of: LaneOf) -> None:
    async def scenario() -> None:
        lane = lane_of(diffusion, rows=8, bucket=1)
        assert len(await pictures_of(lane, request_rows(2, 0, 1, 2.0, diffusion.plan()))) == 2

    asyncio.run(scenario())


def test_a_poisoned_row_leaves_nothing_behind(one_shot: Model, lane_of: LaneOf) -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_cancelled_rows_never_reach_the_device(diffusion: Model, lane_of: LaneOf) -> None:
    async def scenario() -> None:
        lane = lane_of(diffusion, rows=4, bucket=4)
        job = put(lane, request_rows(16, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 50)))
        tick(lane)
        job.cancel()
        lane.sweep()
        assert tick(lane) == 0
        assert lane.is_empty

    asyncio.run(scenario())


def test_rows_cancelled_while_they_run_leave_after_their_tick(diffusion: Model, lane_of: LaneOf) -> None:
    async def scenario() -> None:
        lane = lane_of(diffusion, rows=4, bucket=4)
        job = put(lane, request_rows(2, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 50)))
        running = lane.claim(None, threads=1)
        job.cancel()
        lane.sweep()
        assert len(lane.claim(None, threads=1)) == 0
        lane.settle(lane.compute(running))
        assert tick(lane) == 0
        assert lane.is_empty

    asyncio.run(scenario())


class Schedules(RuleBasedStateMachine):
    """Jobs of all kinds join, run, are cancelled and fail, in any order, on a table smaller than the work."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name)
        write_diffusion(path, "ddpm")
        write_one_shot(path, "vae", PoisonDecode())
        self.models = {name: load_model(path / name, CPU) for name in ("ddpm", "vae")}
        self.lanes = {name: self.new_lane(model) for name, model in self.models.items()}
        self.jobs: list[tuple[str, list[RowSpec], Job[Picture]]] = []
        self.loop = asyncio.new_event_loop()

    def new_lane(self, model: Model) -> Lane:
        return Lane(model, CostModel({1: 1.0, 2: 1.5, 3: 2.0}), 5, Metrics().for_model(model.name, []))

    def teardown(self) -> None:
        for lane in self.lanes.values():
            lane.sweep()
            drain(lane)
        for name, rows, job in self.jobs:
            self.check(name, rows, job)
        self.loop.close()
        self.folder.cleanup()

    def admit(self, name: str, rows: list[RowSpec]) -> None:
        async def submit() -> Job[Picture]:
            return put(self.lanes[name], rows)

        self.jobs.append((name, rows, self.loop.run_until_complete(submit())))

    @rule(
        n=st.integers(1, 7),
        seed=st.integers(0, 2**32 - 1),
        label=st.integers(0, 3),
        scale=st.sampled_from([1.0, 0.0, 2.0]),
        solver=st.sampled_from(["ddpm", "ddim", "dpmpp_2m"]),
        steps=st.integers(1, 6),
    )
    def admit_diffusion(self, n: int, seed: int, label: int, scale: float, solver: str, steps: int) -> None:
        plan = self.models["ddpm"].plan(solver, steps)  # type: ignore[arg-type]
        self.admit("ddpm", request_rows(n, seed, label, scale, plan))

    @rule(n=st.integers(1, 7), seed=st.integers(0, 2**32 - 1), label=st.integers(0, 3))
    def admit_one_shot(self, n: int, seed: int, label: int) -> None:
        self.admit("vae", request_rows(n, seed, label, 1.0, self.models["vae"].plan()))

    @rule(number=st.sampled_from([101.0, -101.0, float("nan")]), n=st.integers(1, 3))
    def admit_poison(self, number: float, n: int) -> None:
        latent = torch.tensor([number, 0.0, 0.0, 0.0])
        self.admit("vae", [RowSpec(0, NO_CLASS, 1.0, self.models["vae"].plan(), latent)] * n)

    @rule(n=st.integers(1, 3), steps=st.integers(1, 4))
    def admit_poisoned_diffusion(self, n: int, steps: int) -> None:
        latent = torch.full((1, 8, 8), float("nan"))
        self.admit("ddpm", [RowSpec(0, NO_CLASS, 1.0, self.models["ddpm"].plan("ddim", steps), latent)] * n)

    @rule(name=st.sampled_from(["ddpm", "vae"]), threads=st.integers(1, 3))
    def tick(self, name: str, threads: int) -> None:
        tick(self.lanes[name], threads)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name, _, job = data.draw(st.sampled_from(self.jobs))
        job.cancel()
        self.lanes[name].sweep()

    @invariant()
    def a_finished_job_is_right(self) -> None:
        for name, rows, job in self.jobs:
            if job.done:
                self.check(name, rows, job)
        self.jobs = [entry for entry in self.jobs if not entry[2].done]

    def check(self, name: str, rows: list[RowSpec], job: Job[Picture]) -> None:
        assert job.done, "a job was left hanging"
        if job.future.cancelled():
            return
        poisoned = any(row.latent is not None for row in rows)
        if (failure := job.future.exception()) is not None:
            assert poisoned, failure
            return
        assert not poisoned
        for row, picture in zip(rows, job.future.result(), strict=True):
            np.testing.assert_allclose(picture.astype(int), self.alone(name, row).astype(int), atol=1)

    def alone(self, name: str, row: RowSpec) -> Picture:
        async def compute() -> list[Picture]:
            return await pictures_of(self.new_lane(self.models[name]), [row])

        return self.loop.run_until_complete(compute())[0]


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
