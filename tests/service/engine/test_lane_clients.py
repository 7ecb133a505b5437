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
