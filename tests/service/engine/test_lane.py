"""One lane, tick by tick: who is served when, who joins, who leaves."""

import asyncio
import math

import pytest

from service.admission.drain import DrainRate
from service.engine.cost import CostModel
from service.engine.model import Model
from tests.service.clock import Clock
from tests.service.engine.conftest import (
    LaneOf,
    Watched,
    drain,
    new_lane,
    pictures_of,
    put,
    request_rows,
    sample,
    tick,
)

NO_CLASS = 3


async def test_short_plans_end_while_long_ones_run(diffusion: Model, lane_of: LaneOf) -> None:
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


async def test_a_large_request_does_not_hold_up_a_small_one(one_shot: Model, lane_of: LaneOf) -> None:
    lane = lane_of(one_shot, rows=4, bucket=4)
    large = put(lane, request_rows(64, 0, NO_CLASS, 1.0, one_shot.plan()))
    tick(lane)
    small = put(lane, request_rows(1, 7, NO_CLASS, 1.0, one_shot.plan()))
    tick(lane)
    assert small.done
    assert not large.done


async def test_free_threads_share_the_ready_rows(one_shot: Model, lane_of: LaneOf) -> None:
    lane = lane_of(one_shot, rows=8, bucket=8)
    put(lane, request_rows(6, 0, NO_CLASS, 1.0, one_shot.plan()))
    assert len(lane.claim(None, threads=2)) == 3


@pytest.mark.parametrize(("threads", "rows"), [(1, 4), (2, 2), (3, 1)])
async def test_guided_rows_share_a_call_as_far_as_it_reaches(
    diffusion: Model, lane_of: LaneOf, threads: int, rows: int
) -> None:
    lane = lane_of(diffusion, rows=8, bucket=8)
    put(lane, request_rows(4, 0, 1, 2.0, diffusion.plan()))
    assert len(lane.claim(None, threads)) == rows  # of a call of eight rows


async def test_guided_rows_take_two_places_in_a_call(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=8, bucket=4)
    put(lane, request_rows(4, 0, 1, 2.0, diffusion.plan()))
    assert len(lane.claim(None, threads=1)) == 2


async def test_a_guided_row_passes_even_through_a_bucket_of_one(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=8, bucket=1)
    assert len(await pictures_of(lane, request_rows(2, 0, 1, 2.0, diffusion.plan()))) == 2


async def test_cancelled_rows_never_reach_the_device(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=4, bucket=4)
    job = put(lane, request_rows(16, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 50)))
    tick(lane)
    job.cancel()
    lane.sweep()
    assert tick(lane) == 0
    assert lane.is_empty
    assert (sample(lane.metrics.dropped_queued), sample(lane.metrics.dropped_running)) == (12, 4)


async def test_rows_cancelled_while_they_run_leave_after_their_tick(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=4, bucket=4)
    job = put(lane, request_rows(2, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 50)))
    running = lane.claim(None, threads=1)
    job.cancel()
    lane.sweep()
    assert len(lane.claim(None, threads=1)) == 0
    assert sample(lane.metrics.dropped_running) == 0
    lane.complete_tick(lane.compute(running), spent_ms=1.0)
    assert tick(lane) == 0
    assert lane.is_empty
    assert (sample(lane.metrics.dropped_queued), sample(lane.metrics.dropped_running)) == (0, 2)


async def test_rows_that_end_while_their_job_is_cancelled_are_not_counted_as_dropped(
    one_shot: Model, lane_of: LaneOf
) -> None:
    lane = lane_of(one_shot, rows=4, bucket=4)
    job = put(lane, request_rows(2, 0, NO_CLASS, 1.0, one_shot.plan()))
    running = lane.claim(None, threads=1)
    job.cancel()
    lane.sweep()
    lane.complete_tick(lane.compute(running), spent_ms=1.0)
    assert tick(lane) == 0
    assert lane.is_empty
    assert (sample(lane.metrics.dropped_queued), sample(lane.metrics.dropped_running)) == (0, 0)


async def test_late_rows_never_reach_the_network(diffusion: Model, lane_of: LaneOf) -> None:
    watched = Watched(diffusion)
    lane = lane_of(watched.model, rows=8, bucket=8)
    late = put(lane, request_rows(5, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 7)), expires_at=0.0)
    timely = put(lane, request_rows(3, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 2)), expires_at=math.inf)
    drain(lane)
    assert watched.calls == [3, 3]
    assert len(await timely.future) == 3
    assert not late.done  # it is for its caller to end
    assert late.started_at is None
    assert (sample(lane.metrics.dropped_queued), sample(lane.metrics.dropped_running)) == (5, 0)
    late.cancel()
    lane.sweep()
    assert tick(lane) == 0
    assert sample(lane.metrics.dropped_queued) == 5


async def test_late_rows_take_no_place_from_others(one_shot: Model, lane_of: LaneOf) -> None:
    """A lane whose queue has only late rows has no work, and late rows never fill the table."""

    lane = lane_of(one_shot, rows=2, bucket=2)
    put(lane, request_rows(5, 0, NO_CLASS, 1.0, one_shot.plan()), expires_at=0.0)
    claims = 0
    while lane.has_work:
        assert tick(lane) == 0
        claims += 1
    assert lane.is_empty
    assert 1 <= claims <= 3  # two places, five rows
    assert len(await pictures_of(lane, request_rows(2, 0, NO_CLASS, 1.0, one_shot.plan()))) == 2


async def test_what_ticks_cost_corrects_the_price(one_shot: Model, lane_of: LaneOf) -> None:
    lane = lane_of(one_shot, rows=8, bucket=4)
    before = lane.cost.row_ms()
    for _ in range(200):
        put(lane, request_rows(4, 0, NO_CLASS, 1.0, one_shot.plan()))
        tick(lane, spent_ms=3.0)  # for a call that was measured at 1 ms
    assert lane.cost.row_ms() == pytest.approx(3 * before, rel=0.01)
    assert lane.cost.ratio == pytest.approx(3.0, rel=0.01)
    assert lane.served_ms == pytest.approx(600.0)


async def test_a_later_request_joins_at_any_step(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=8, bucket=4)
    first = put(lane, request_rows(2, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 6)))
    tick(lane)
    later = put(lane, request_rows(1, 9, NO_CLASS, 1.0, diffusion.plan("ddim", 1)))
    assert tick(lane) == 3
    assert later.done
    assert not first.done


@pytest.mark.parametrize(("rows", "believed"), [(1, 1000.0), (4, 1000.0), (200, 500.0)])
def test_the_drain_rate_learns_only_while_rows_wait(
    diffusion: Model, monkeypatch: pytest.MonkeyPatch, rows: int, believed: float
) -> None:
    """Calls of four rows, a second each by their price, take two: so slow is the model only where more rows wait."""
    clock = Clock()
    monkeypatch.setattr("service.engine.lane.time", clock)

    async def scenario() -> DrainRate:
        rate = DrainRate(1000.0)
        lane = new_lane(diffusion, rows=400, cost=CostModel(dict.fromkeys(range(1, 5), 1000.0)), drain=rate)
        put(lane, request_rows(rows, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 8)))
        for _ in range(40):
            clock.now += 2.0
            tick(lane, spent_ms=1000.0)
            if lane.is_empty:
                put(lane, request_rows(rows, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 8)))
        return rate

    assert asyncio.run(scenario()).ms_per_s == pytest.approx(believed, rel=0.01)


async def test_an_idle_lane_forgets_how_slow_it_was(diffusion: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("service.engine.lane.time", clock)

    rate = DrainRate(1000.0)
    lane = new_lane(diffusion, drain=rate)
    rate.note(1.0, 100.0)
    assert rate.ms_per_s < 100
    clock.now += 100.0
    put(lane, request_rows(1, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 8)))
    assert rate.ms_per_s == pytest.approx(1000.0)
