"""Work lent to the device's threads, and how the threads end: when told, by a fault, or not at all."""

import asyncio
import threading
from functools import partial

import pytest
import torch

from service.background import call_soon
from service.engine.delivery import deliver
from service.engine.device import Device
from service.engine.lane import Lane
from service.engine.model import Model
from service.errors import ComputeFailed
from service.sampling.step import Inputs
from tests.service.engine.test_device import lane_for, submit


async def test_work_that_is_lent_is_done_by_the_threads_between_ticks(one_shot: Model) -> None:
    lane = lane_for(one_shot)
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    before = submit(device, lane, 3, one_shot)
    names = [device.run_exclusive(lambda: threading.current_thread().name) for _ in range(3)]
    fails = device.run_exclusive(lambda: 1 / 0)
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    assert {name.result(60) for name in names} == {"engine-0"}
    assert isinstance(fails.exception(60), ZeroDivisionError)
    after = submit(device, lane, 3, one_shot)
    assert len(await asyncio.wait_for(before.future, 60)) == len(await asyncio.wait_for(after.future, 60)) == 3
    assert device._free_threads == 1
    device.stop()


def test_work_that_is_lent_is_not_done_once_the_device_stops() -> None:
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    early = device.run_exclusive(lambda: None)
    assert device.stop()
    assert early.cancelled()
    assert device.run_exclusive(lambda: None).cancelled()


def test_a_stop_leaves_a_thread_behind_that_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    """The caller of the work that blocks the device is notified, too."""
    may_go_on = threading.Event()

    async def scenario() -> None:
        device = Device(2, tick_budget_ms=100.0, deliver=deliver)
        device.start(asyncio.get_running_loop().call_soon_threadsafe)
        stuck, free = device.run_exclusive(may_go_on.wait), device.run_exclusive(lambda: "done")
        assert free.result(60) == "done"
        assert not device.stop(within_s=0.1)
        assert stuck.cancelled()
        may_go_on.set()
        assert device.stop(within_s=60)

    asyncio.run(scenario())
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "engine threads did not end")


def test_a_tick_that_outlasts_the_event_loop_ends_in_silence(one_shot: Model, caplog: pytest.LogCaptureFixture) -> None:
    computing, may_go_on = threading.Event(), threading.Event()

    def decode(z: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        computing.set()
        may_go_on.wait()
        result: torch.Tensor = one_shot.decode(z, inputs)
        return result

    model = Model(one_shot.manifest, one_shot.device, decode, None)
    device = Device(1, tick_budget_ms=100.0, deliver=deliver)

    async def scenario() -> None:
        device.start(partial(call_soon, asyncio.get_running_loop()))
        submit(device, lane_for(model), 1, model)
        assert await asyncio.to_thread(computing.wait, 60)
        assert not device.stop(within_s=0.0)

    asyncio.run(scenario())
    may_go_on.set()
    assert device.stop(within_s=60)
    assert [record.levelname for record in caplog.records] == ["ERROR"]  # of the first stop


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thread_that_a_fault_ends_leaves_nobody_waiting(
    one_shot: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, threads: int
) -> None:
    async def scenario() -> None:
        device = Device(threads, tick_budget_ms=100.0, deliver=deliver)
        monkeypatch.setattr(Lane, "claim", lambda *_: 1 / 0)
        device.start(asyncio.get_running_loop().call_soon_threadsafe)
        submit(device, lane_for(one_shot), 1, one_shot)
        async with asyncio.timeout(60):
            while device.threads_left:
                await asyncio.sleep(0.001)
        assert not device.is_alive()
        assert device.run_exclusive(lambda: None).cancelled()
        assert device.stop(within_s=60)

    asyncio.run(scenario())
    assert {(record.levelname, record.message) for record in caplog.records} == {
        ("CRITICAL", "engine thread ended by a fault")
    }


@pytest.mark.parametrize("lost", [False, True])
async def test_a_gpu_that_computes_nothing_any_more_ends_its_thread(
    one_shot: Model, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """After an illegal access every call raises, and only another process can use the GPU. A failed tick alone is not
    that."""

    def wait_for(device: torch.device) -> None:
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    device = Device(1, tick_budget_ms=100.0, deliver=deliver)
    monkeypatch.setattr("service.engine.device.wait_for", wait_for)
    monkeypatch.setattr(Lane, "compute", lambda *_: 1 / 0)
    device.start(asyncio.get_running_loop().call_soon_threadsafe)
    with pytest.raises(ComputeFailed):
        await asyncio.wait_for(submit(device, lane_for(one_shot), 1, one_shot).future, 60)
    if lost:
        async with asyncio.timeout(60):
            while device.is_alive():
                await asyncio.sleep(0.001)
    else:
        assert device.run_exclusive(lambda: "done").result(60) == "done"
    assert device.threads_left == (0 if lost else 1)
    assert device.stop(within_s=60)
