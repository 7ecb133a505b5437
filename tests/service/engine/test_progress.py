"""How far jobs are: what a look at a lane tells, and how seldom lanes are looked at."""

import gc
import weakref

import pytest

from service.engine.backend import LaneHandle
from service.engine.lane import Lane
from service.engine.model import Model
from service.engine.progress import REFRESH_S, LaneProgress, ProgressCache, Remaining, remaining_by_job
from service.engine.results import Picture
from service.engine.submission import Submission
from tests.service.clock import Clock
from tests.service.engine.conftest import LaneOf, drain, put, request_rows, tick


async def test_a_look_finds_what_is_left_of_every_job(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=4, bucket=4)
    first = put(lane, request_rows(3, 0, 0, 2.0, diffusion.plan("ddim", 10)))
    second = put(lane, request_rows(2, 0, 0, 1.0, diffusion.plan("ddim", 7)))
    third = put(lane, request_rows(1, 0, 0, 1.0, diffusion.plan("ddim", 5)))
    before = remaining_by_job(lane.snapshot())
    assert {job: before[job] for job in (first, second, third)} == {
        first: Remaining(0, [20, 20, 20]),
        second: Remaining(1, [7, 7]),
        third: Remaining(2, [5]),
    }
    tick(lane)  # a row of each, for a guided one is two rows of the call; the first job's second row has a place too
    after = remaining_by_job(lane.snapshot())
    assert dict(after) == {first: Remaining(1, [18, 20, 20]), second: Remaining(0, [6, 7]), third: Remaining(0, [4])}
    drain(lane)
    assert len(remaining_by_job(lane.snapshot())) == 0


def progress_of(lane: LaneHandle) -> LaneProgress:
    """As the engine of the same process tells it."""
    assert isinstance(lane, Lane)
    return remaining_by_job(lane.snapshot())


@pytest.mark.parametrize("jobs", [1, 100])
async def test_a_lane_is_read_once_a_second_however_many_requests_there_are(
    diffusion: Model, lane_of: LaneOf, jobs: int
) -> None:
    lane, clock, looks = lane_of(diffusion, rows=4, bucket=4), Clock(), []

    def look(looked_at: LaneHandle) -> LaneProgress:
        looks.append(looked_at)
        return progress_of(looked_at)

    snapshots = ProgressCache(look, clock.monotonic)
    plan = diffusion.plan("ddim", 5)
    waiting = [put(lane, request_rows(1, 0, 0, 1.0, plan)) for _ in range(jobs)]
    for second in range(10):
        for _ in range(4):
            for place, job in enumerate(waiting):
                assert snapshots.remaining(lane, job, [5]) == Remaining(place, [5])
        assert len(looks) == second + 1
        clock.now += REFRESH_S


async def test_a_job_newer_than_the_snapshot_is_last_in_the_queue(diffusion: Model, lane_of: LaneOf) -> None:
    lane, clock = lane_of(diffusion, rows=4, bucket=4), Clock()
    snapshots = ProgressCache(progress_of, clock.monotonic)
    rows = request_rows(2, 0, 0, 1.0, diffusion.plan("ddim", 5))
    first = put(lane, rows)
    assert snapshots.remaining(lane, first, [5, 5]) == Remaining(0, [5, 5])
    second = put(lane, rows)
    assert snapshots.remaining(lane, second, [5, 5]) == Remaining(1, [5, 5])
    second.cancel()
    assert snapshots.remaining(lane, second, [5, 5]) == Remaining(0, ())


async def test_a_snapshot_keeps_no_job_in_memory(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=4, bucket=4)
    snapshots = ProgressCache(progress_of)
    job = put(lane, request_rows(2, 0, 0, 1.0, diffusion.plan("ddim", 5)))
    snapshots.remaining(lane, job, [5, 5])
    drain(lane)
    await job.future
    gone: weakref.ref[Submission[Picture]] = weakref.ref(job)
    del job
    gc.collect()
    assert gone() is None
