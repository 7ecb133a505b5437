"""Clients of one lane, tick by tick: the flood of one leaves others their part of the device."""

import pytest

from service.engine.model import Model
from tests.service.engine.conftest import LaneOf, put, request_rows, tick

NO_CLASS, FLOOD = 3, 7


@pytest.mark.parametrize("queued", [100, 1000])
async def test_one_row_beside_a_flood_of_one_shot_rows_waits_for_the_table_only(
    one_shot: Model, lane_of: LaneOf, queued: int
) -> None:
    lane = lane_of(one_shot, rows=16, bucket=4)
    flood = [
        put(lane, request_rows(4, number, NO_CLASS, 1.0, one_shot.plan()), client=FLOOD) for number in range(queued)
    ]
    tick(lane)
    good = put(lane, request_rows(1, 99, NO_CLASS, 1.0, one_shot.plan()), client=1)
    ticks = 0
    while not good.done:
        tick(lane)
        ticks += 1
    assert ticks <= 2
    assert sum(each.done for each in flood) < 16


async def test_a_client_in_the_table_is_served_as_if_the_flood_were_one_other_row(
    diffusion: Model, lane_of: LaneOf
) -> None:
    lane = lane_of(diffusion, rows=64, bucket=4)
    for number in range(6):
        put(lane, request_rows(8, number, NO_CLASS, 1.0, diffusion.plan("ddim", 200)), client=FLOOD)
    tick(lane)
    good = put(lane, request_rows(2, 99, NO_CLASS, 1.0, diffusion.plan("ddim", 20)), client=1)
    ticks = 0
    while not good.done:
        tick(lane)
        ticks += 1
    assert ticks == 20  # two of the four rows of every tick are the good client's


@pytest.mark.parametrize("later", [30, 50, 70, 100])
async def test_a_client_finds_a_place_in_the_table_while_a_flood_waits_for_one(
    diffusion: Model, lane_of: LaneOf, later: int
) -> None:
    """A flood's rows are served in turn, so they would leave a full table all at once, 80 ticks after they came."""
    lane = lane_of(diffusion, rows=32, bucket=4)
    for number in range(100):
        put(lane, request_rows(1, number, NO_CLASS, 1.0, diffusion.plan("ddim", 10)), client=FLOOD)
    for _ in range(later):
        tick(lane)
    good = put(lane, request_rows(2, 99, NO_CLASS, 1.0, diffusion.plan("ddim", 10)), client=1)
    for _ in range(10):
        tick(lane)
    assert good.done
    assert lane.queued > 0


async def test_a_lane_whose_clients_have_all_their_places_has_no_work_until_a_tick_ends(
    diffusion: Model, lane_of: LaneOf
) -> None:
    """Otherwise a second thread would claim nothing again and again while the first one computes."""
    lane = lane_of(diffusion, rows=8, bucket=8)
    put(lane, request_rows(9, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 2)), client=FLOOD)
    slots = lane.claim(None, 1)
    assert (len(slots), lane.free_slots, lane.queued) == (7, 1, 2)
    assert len(lane.claim(None, 1)) == 0
    assert not lane.has_work
    put(lane, request_rows(1, 1, NO_CLASS, 1.0, diffusion.plan("ddim", 2)), client=1)
    assert lane.has_work
    assert len(lane.claim(None, 1)) == 1
    lane.complete_tick(lane.compute(slots), 1.0)
    assert lane.has_work


async def test_rows_are_all_the_clients_if_nobody_else_has_any(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=8, bucket=4)
    own = put(lane, request_rows(4, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 5)), client=1)
    for _ in range(5):
        tick(lane)
    assert own.done


async def test_many_clients_take_turns(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=64, bucket=4)
    counts = [8, 1, 1, 1, 1, 1, 1, 1]
    requests = [request_rows(count, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 3)) for count in counts]
    jobs = [put(lane, rows, client=client) for client, rows in enumerate(requests)]
    for _ in range(3 * 8 // 4):
        tick(lane)
    assert [job.done for job in jobs] == [False] + [True] * 7
