import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ComputeFailed, JobCanceled
from service.store.job import TRANSIENT_BYTES, TRANSIENT_EVENTS, About, Job, JobProgress
from tests.service.store.test_events import everything

Record = Job[str, str]

CALLS: dict[str, Callable[[Record], None]] = {
    "update_progress": lambda record: record.update_progress(JobProgress(0.5, record.log.last_id % 3, 1.0)),
    "mark_running": lambda record: record.mark_running(),
    "preview": lambda record: record.add_preview("preview", 10),
    "image": lambda record: record.add_image("image", 20),
    "succeed": lambda record: record.succeed("result", b"{}", 30),
    "fail": lambda record: record.fail(ComputeFailed("No.")),
    "cancel": lambda record: record.cancel(),
}
ENDS = {"succeed": "succeeded", "fail": "failed", "cancel": "canceled"}


def make(size: int = 0) -> Record:
    return Job("id", "client", "work", About("model", "12345678", 3, [1], {"fill": "x" * size}), 0)


def names(record: Record) -> list[str]:
    return [event.name for event in everything(record.log)]


@given(calls=st.lists(st.sampled_from(sorted(CALLS)), max_size=12))
def test_it_goes_one_way_and_ends_once(calls: list[str]) -> None:
    record, ended = make(), []
    record.on_end(lambda: ended.append(record.state))
    states = [record.state]
    for call in calls:
        CALLS[call](record)
        states.append(record.state)
    first_end = next((ENDS[call] for call in calls if call in ENDS), None)
    assert ended == ([first_end] if first_end else [])
    assert record.done == (first_end is not None)
    assert record.log.ended == record.done
    order = ["queued", "running", first_end]
    assert [order.index(state) for state in states] == sorted(order.index(state) for state in states)
    told = names(record)
    assert told.count("started") <= 1
    assert sum(name in ("completed", "error") for name in told) == bool(first_end)
    if first_end:
        assert told[-1] == ("completed" if first_end == "succeeded" else "error")
    if {"preview", "image", "completed"} & set(told):
        assert set(told[: told.index("started")]) <= {"queued"}
    assert "queued" not in told[told.index("started") if "started" in told else len(told) :]
    assert record.result == ("result" if first_end == "succeeded" else None)
    assert (record.error is not None) == (first_end in ("failed", "canceled"))


def test_a_place_in_the_queue_is_told_when_it_changes() -> None:
    record = make()
    for position in (3, 3, 1, 0):
        record.update_progress(JobProgress(0.0, position, 100.0))
    places = [event.payload for event in everything(record.log)]
    assert places == [{"id": "id", "queue_position": place, "eta_ms": 100.0} for place in (3, 1, 0)]


def test_how_it_ended() -> None:
    good, bad, gone = make(), make(), make()
    good.succeed("result", b"{}", 2)
    assert (good.result, good.progress) == ("result", JobProgress(1.0, 0, 0.0))
    bad.update_progress(JobProgress(0.25, 0, 50.0))
    failure = ComputeFailed("No.")
    bad.fail(failure)
    assert (bad.error, bad.progress) == (failure, JobProgress(0.25, 0, 0.0))
    gone.cancel()
    assert isinstance(gone.error, JobCanceled)
    for record in (good, bad, gone):
        before = (record.state, record.log.last_id)
        for call in CALLS.values():
            call(record)
        assert (record.state, record.log.last_id) == before


def test_its_size_is_that_of_what_it_keeps() -> None:
    empty, record = make().size, make(1000)
    assert record.size == empty + 1000
    record.add_image("image", 5000)
    assert record.size == empty + 6000
    for _ in range(3 * TRANSIENT_EVENTS):
        record.add_preview("preview", TRANSIENT_BYTES // 10)
    assert empty + 6000 < record.size <= empty + 6000 + TRANSIENT_BYTES
    assert names(record).count("image") == 1


async def test_what_ends_it_may_be_waited_for() -> None:
    record = make()
    assert not await record.wait(0.001)
    waiting = asyncio.create_task(record.wait(10.0))
    await asyncio.sleep(0)
    record.cancel()
    assert await waiting
    assert await record.wait(0.0)


def test_nobody_looks_at_one_that_has_ended() -> None:
    record = make()
    record.look = lambda: pytest.fail("looked")
    record.cancel()
    record.look()
