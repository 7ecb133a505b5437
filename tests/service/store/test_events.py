import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.store.events import Event, EventLog

#: What a test waits for at most, in seconds; none of it takes any.
SOON = 10.0


def everything(log: EventLog, after: int = 0) -> list[Event]:
    events = []
    while (event := log.after(after)) is not None:
        events.append(event)
        after = event.id
    return events


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@given(
    added=st.lists(st.tuples(st.booleans(), st.integers(0, 50))),
    most=st.integers(0, 5),
    most_bytes=st.integers(0, 100),
    seen=st.integers(0, 30),
)
def test_the_latest_passing_events_are_kept_and_all_others(
    added: list[tuple[bool, int]], most: int, most_bytes: int, seen: int
) -> None:
    log = EventLog(most, most_bytes)
    for number, (transient, size) in enumerate(added, start=1):
        log.add("preview" if transient else "image", number, size, transient=transient)
    events = everything(log, seen)
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))
    assert all(event.payload == event.id > seen for event in events)
    lasting = [number for number, (transient, _) in enumerate(added, 1) if not transient and number > seen]
    assert [event.id for event in events if event.name == "image"] == lasting
    # Of the transient ones, as many of the latest as there is room for.
    kept = [event.id for event in everything(log) if event.name == "preview"]
    transient_ids = [number for number, (transient, _) in enumerate(added, 1) if transient]
    assert kept == transient_ids[len(transient_ids) - len(kept) :]
    assert len(kept) <= most
    assert sum(added[id - 1][1] for id in kept) <= most_bytes
    if len(kept) < min(most, len(transient_ids)):
        assert sum(added[id - 1][1] for id in [transient_ids[-len(kept) - 1], *kept]) > most_bytes
    assert log.size == sum(added[event.id - 1][1] for event in everything(log))


def test_every_listener_hears_all_from_where_it_begins() -> None:
    async def scenario() -> None:
        log = EventLog(8, 1000)
        for number in range(3):
            log.add("image", number)
        with log.listen() as first, log.listen(after=2) as second:
            assert [(await first.next(SOON)) for _ in range(3)] == everything(log)
            assert await second.next(SOON) == Event(3, "image", 2)
            waiting = [asyncio.create_task(listener.next(SOON)) for listener in (first, second)]
            await asyncio.sleep(0)
            log.add("image", 3)
            assert await asyncio.gather(*waiting) == [Event(4, "image", 3)] * 2
            log.end()
            assert first.over
            assert await first.next(SOON) is None

    run(scenario)


def test_what_is_missed_is_not_waited_for() -> None:
    async def scenario() -> None:
        log = EventLog(2, 1000)
        with log.listen() as slow:
            for number in range(1, 100):
                log.add("preview", number, transient=True)
            log.add("image", 100)
            log.end()
            assert not slow.over
            heard = [await slow.next(SOON) for _ in range(3)]
            assert [event and event.id for event in heard] == [98, 99, 100]
            assert slow.over

    run(scenario)


def test_waiting_ends_in_time_with_the_log_and_with_the_listener() -> None:
    async def scenario() -> None:
        log = EventLog(2, 1000)
        with log.listen() as listener, log.listen() as closed:
            assert await listener.next(0.001) is None
            assert not listener.over
            waiting = asyncio.create_task(closed.next(SOON))
            await asyncio.sleep(0)
            closed.close()
            assert await waiting is None
            assert closed.over
            log.add("image", 1)
            assert await closed.next(SOON) is None
            assert await listener.next(SOON) is not None
            waiting = asyncio.create_task(listener.next(SOON))
            await asyncio.sleep(0)
            log.end()
            assert await waiting is None
            assert listener.over

    run(scenario)
