"""The device's threads: fair between lanes, complete, and not to be stopped by what a model raises."""

import asyncio
import os
import threading
import time
import weakref
from collections import Counter
from functools import partial

import pytest
import torch

from service.engine.cost import CostModel
from service.engine.delivery import deliver
from service.engine.device import SHARED_S, Device
from service.engine.lane import Lane, TickResult
from service.engine.model import Model
from service.engine.parts import Decoder
from service.engine.results import Picture
from service.engine.rows import Film
from service.engine.submission import Submission
from service.engine.table import RowTable, Slots
from service.errors import ComputeFailed
from service.sampling.step import Inputs
from tests.service.engine.conftest import new_job, new_lane, request_rows

NO_CLASS = 3


def lane_for(model: Model, bucket: int = 2) -> Lane:
    return new_lane(model, rows=64, bucket=bucket)


def submit(device: Device, lane: Lane, n: int, model: Model) -> Submission[Picture]:
    job, rows = new_job(request_rows(n, 0, NO_CLASS, 1.0, model.plan()))
    device.put(lane, rows)
    return job


def next_tick(device: Device) -> tuple[Lane, Slots]:
    """The lane and the rows that a thread would serve next, claimed."""
    turn = device._next_turn(0)
    assert isinstance(turn, partial)
    lane, slots = turn.args
    return lane, slots


def was_busy_for(device: Device, lane: Lane, served_ms: float, model: Model) -> None:
    """Have ``lane`` served one row, which took that long, before the device's threads start."""
    submit(device, lane, 1, model)
    _, slots = next_tick(device)
    device._finish_tick(lane, TickResult(slots[:0], slots, []), spent_ms=served_ms)
    assert device.is_idle()


@pytest.mark.parametrize(("threads", "kept_to"), [(1, []), (2, []), (3, [{1}, {4}, {6}]), (4, [])])
def test_threads_that_are_as_many_as_the_cores_have_one_each(
    threads: int, kept_to: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {6, 1, 4}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: asked.append(cores), raising=False)

    async def scenario() -> None:
        device = Device(threads, tick_budget_ms=100.0, deliver=deliver)
        device.start(asyncio.get_running_loop().call_soon_threadsafe)
        device.stop()

    asyncio.run(scenario())
    assert sorted(asked, key=min) == kept_to


@pytest.mark.parametrize("threads", [1, 3])
async def test_every_row_of_every_lane_is_served_once(one_shot: Model, diffusion: Model, threads: int) -> None:
    lanes = [lane_for(one_shot), lane_for(diffusion)]
    device = Device(threads, tick_budget_ms=100.0, deliver=deliver)
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    pairs = list(zip(lanes, (one_shot, diffusion), strict=True))
    jobs = [submit(device, lane, n, model) for n in (1, 5, 9) for lane, model in pairs]
    results = await asyncio.wait_for(asyncio.gather(*(job.future for job in jobs)), 60)
    assert [len(result) for result in results] == [1, 1, 5, 5, 9, 9]
    device.stop()
    assert device.is_idle()


def test_lanes_are_served_level_by_time_and_a_late_one_starts_level(one_shot: Model) -> None:
    """One thread, every tick on record: a lane that joins late is neither starved nor paid back for its idleness."""
    order: list[str] = []
    may_go_on = threading.Semaphore(0)

    def decoder(name: str) -> Model:
        def decode(z: torch.Tensor, inputs: Inputs) -> torch.Tensor:
            may_go_on.acquire()
            order.append(name)
            return torch.zeros(len(z), 1, 8, 8)

        return Model(one_shot.manifest, one_shot.device, decode, None)

    async def scenario() -> None:
        early, late = decoder("early"), decoder("late")
        lanes = [lane_for(early, bucket=1), lane_for(late, bucket=1)]
        device = Device(1, tick_budget_ms=100.0, deliver=deliver)
        was_busy_for(device, lanes[0], 1e6, early)
        first = submit(device, lanes[0], 6, early)
        second = submit(device, lanes[1], 6, late)
        assert lanes[1].served_ms == 1e6
        device.start(asyncio.get_running_loop().call_soon_threadsafe)
        may_go_on.release(12)
        await asyncio.wait_for(asyncio.gather(first.future, second.future), 60)
        device.stop()

    asyncio.run(scenario())
    assert order[:2] == ["early", "late"]
    assert sorted(order) == ["early"] * 6 + ["late"] * 6


async def test_a_lane_that_was_served_alone_owes_nothing(one_shot: Model) -> None:
    """A is served alone and goes idle; B comes; A's next request must not wait until B has caught up."""

    lanes = [lane_for(one_shot), lane_for(one_shot)]
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    was_busy_for(device, lanes[0], 1e6, one_shot)
    submit(device, lanes[1], 4, one_shot)
    assert lanes[1].served_ms == 1e6
    submit(device, lanes[0], 1, one_shot)
    assert lanes[0].served_ms == 1e6


async def test_one_row_on_one_of_four_threads_earns_no_credit(one_shot: Model) -> None:
    """A keeps one thread busy and B three; what A did not want must not let a third, C, take all four from B."""

    a, b, c = (lane_for(one_shot, bucket=1) for _ in range(3))
    device = Device(4, tick_budget_ms=100.0, deliver=deliver)
    submit(device, a, 1, one_shot)
    submit(device, b, 32, one_shot)

    def serve(rounds: int) -> Counter[int]:
        """Rounds in which each thread serves one tick of a millisecond; how often each lane was served."""
        served: Counter[int] = Counter()
        for _ in range(rounds):
            ticks = [next_tick(device) for _ in range(4)]
            for lane, slots in ticks:
                served[id(lane)] += 1
                device._finish_tick(lane, TickResult(slots, slots[:0], []), spent_ms=1.0)
        return served

    alone = serve(50)
    assert (alone[id(a)], alone[id(b)]) == (50, 150)
    submit(device, c, 32, one_shot)
    beside = serve(10)
    assert beside[id(a)] == 10
    assert beside[id(b)] == pytest.approx(15, abs=3)
    assert beside[id(c)] == pytest.approx(15, abs=3)


async def test_a_row_that_cannot_begin_fails_and_leaves_its_place(one_shot: Model) -> None:
    lane = new_lane(one_shot, rows=2, bucket=2)
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    for _ in range(3):
        job, rows = new_job([request_rows(1, 0, NO_CLASS, 1.0, one_shot.plan())[0]._replace(latent=torch.zeros(7))])
        device.put(lane, rows)
        with pytest.raises(ComputeFailed):
            await asyncio.wait_for(job.future, 60)
    assert len(await asyncio.wait_for(submit(device, lane, 3, one_shot).future, 60)) == 3
    assert device.is_alive()
    device.stop()


async def test_a_row_that_no_place_takes_fails_alone(diffusion: Model) -> None:
    """A number that is beyond the table's own, between rows of others that come with it."""

    lane = new_lane(diffusion, rows=4, bucket=2)
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    good = [submit(device, lane, 2, diffusion)]
    unfit = request_rows(1, 0, NO_CLASS, 1.0, diffusion.plan())[0]._replace(film=Film(1 << 63))
    job, rows = new_job([unfit])
    device.put(lane, rows)
    good.append(submit(device, lane, 3, diffusion))
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    with pytest.raises(ComputeFailed):
        await asyncio.wait_for(job.future, 60)
    assert [len(await asyncio.wait_for(each.future, 60)) for each in good] == [2, 3]
    assert device.is_alive()
    device.stop()
    assert device.is_idle()
    assert lane.live == 0


async def test_a_fault_of_the_engine_fails_its_rows_and_not_the_thread(
    one_shot: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = lane_for(one_shot)
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    with monkeypatch.context() as patch:
        patch.setattr(RowTable, "gather", lambda self, slots: 1 / 0)
        with pytest.raises(ComputeFailed):
            await asyncio.wait_for(submit(device, lane, 3, one_shot).future, 60)
    assert len(await asyncio.wait_for(submit(device, lane, 3, one_shot).future, 60)) == 3
    device.stop()
    assert device.is_idle()


async def test_the_least_served_lane_goes_next(one_shot: Model, diffusion: Model) -> None:
    lanes = [lane_for(one_shot, bucket=1), lane_for(diffusion, bucket=1)]
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    submit(device, lanes[0], 2, one_shot)
    submit(device, lanes[1], 2, diffusion)
    lanes[0].served_ms, lanes[1].served_ms = 5.0, 1.0
    assert next_tick(device)[0] is lanes[1]


async def test_a_waiting_model_caps_the_bucket_of_the_other(one_shot: Model, diffusion: Model) -> None:
    cost = CostModel({1: 10.0, 2: 12.0, 4: 16.0})
    lanes = [new_lane(model, rows=64, cost=cost) for model in (one_shot, diffusion)]
    device = Device(1, tick_budget_ms=12.0, deliver=deliver)
    submit(device, lanes[0], 8, one_shot)
    _, slots = next_tick(device)
    assert len(slots) == 4  # alone: its best bucket
    device._finish_tick(lanes[0], TickResult(slots, slots[:0], []), spent_ms=1.0)
    submit(device, lanes[1], 8, diffusion)
    assert len(next_tick(device)[1]) == 2  # 16 ms would be beyond the budget of 12


async def test_parts_of_one_model_do_not_cap_each_other(one_shot: Model) -> None:
    """Texts and pictures are encoded and decoded all the time while the rows of others take their steps."""
    cost = CostModel({1: 10.0, 2: 12.0, 4: 16.0})
    decoder = Decoder(one_shot.manifest, one_shot.device, one_shot.decode, None)
    lanes = [new_lane(model, rows=64, cost=cost) for model in (one_shot, decoder)]
    device = Device(1, tick_budget_ms=12.0, deliver=deliver)
    for lane in lanes:
        submit(device, lane, 8, one_shot)
    for _ in range(4):
        lane, slots = next_tick(device)
        assert len(slots) == 4
        device._finish_tick(lane, TickResult(slots, slots[:0], []), spent_ms=1.0)


def test_another_model_served_recently_caps_the_bucket_too(
    one_shot: Model, diffusion: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    async def scenario() -> list[int]:
        slow = new_lane(diffusion, rows=64, cost=CostModel({1: 10.0, 2: 12.0, 4: 16.0}))
        device = Device(1, tick_budget_ms=12.0, deliver=deliver)
        was_busy_for(device, lane_for(one_shot), 1.0, one_shot)
        submit(device, slow, 8, diffusion)
        sizes = []
        for part in (0.0, 0.9, 1.1):
            clock[0] = 1000.0 + part * SHARED_S
            lane, slots = next_tick(device)
            sizes.append(len(slots))
            device._finish_tick(lane, TickResult(slots, slots[:0], []), spent_ms=1.0)
        return sizes

    assert asyncio.run(scenario()) == [2, 2, 4]


async def test_the_rows_of_one_request_wake_a_thread_each(one_shot: Model) -> None:
    together = threading.Barrier(2, timeout=30)

    def decode(z: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        together.wait()  # one thread alone would wait for ever
        result: torch.Tensor = one_shot.decode(z, inputs)
        return result

    model = Model(one_shot.manifest, one_shot.device, decode, None)
    device = Device(2, tick_budget_ms=100.0, deliver=deliver)
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    await asyncio.sleep(0.1)  # until both wait: one that comes later would find its row without being woken
    assert len(await asyncio.wait_for(submit(device, lane_for(model), 2, model).future, 60)) == 2
    device.stop()


async def test_a_model_that_raises_does_not_stop_the_thread(one_shot: Model) -> None:
    failing = True

    def decode(z: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        if failing:
            raise RuntimeError("broken")
        return torch.zeros(len(z), 1, 8, 8)

    model = Model(one_shot.manifest, one_shot.device, decode, None)
    lane = lane_for(model)
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    with pytest.raises(ComputeFailed):
        await asyncio.wait_for(submit(device, lane, 3, model).future, 60)
    failing = False
    assert len(await asyncio.wait_for(submit(device, lane, 3, model).future, 60)) == 3
    device.stop()


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="another system")
async def test_the_threads_do_not_interrupt_who_wakes_them() -> None:
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    assert device.run_exclusive(lambda: os.sched_getscheduler(0)).result(60) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    device.stop()


async def test_a_lane_is_forgotten_with_its_last_row(one_shot: Model) -> None:
    device, lane = Device(1, tick_budget_ms=100.0, deliver=deliver), lane_for(one_shot)
    job = submit(device, lane, 3, one_shot)
    assert device.busy_lanes() == [lane]
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    await asyncio.wait_for(job.future, 60)
    assert device.busy_lanes() == []
    gone = weakref.ref(lane)
    del job, lane
    device.stop()  # its thread may still stand in the tick that was the last
    assert gone() is None


async def test_a_lane_whose_rows_were_all_given_up_is_forgotten_too(one_shot: Model) -> None:
    device, lane = Device(1, tick_budget_ms=100.0, deliver=deliver), lane_for(one_shot)
    submit(device, lane, 3, one_shot).cancel()
    device.sweep(lane)
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    while not device.is_idle():
        await asyncio.sleep(0)
    device.stop()
