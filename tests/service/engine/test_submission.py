import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.submission import Submission


def on_a_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that needs a running event loop."""

    def test() -> None:
        asyncio.run(scenario())

    test.__name__ = scenario.__name__
    return test


@given(order=st.integers(1, 8).flatmap(lambda rows: st.permutations(range(rows))))
async def test_results_come_in_the_order_of_rows_whatever_order_they_were_made_in(order: list[int]) -> None:
    job: Submission[str] = Submission(len(order))
    for clock, row in enumerate(order):
        assert not job.done
        assert job.finished_at is None
        job.deliver(row, f"picture {row}", now=11.0 + clock)
    assert await job.future == [f"picture {row}" for row in range(len(order))]
    assert job.done
    assert job.finished_at == 10.0 + len(order)
    assert not job.cancelled


@on_a_loop
async def test_a_row_delivered_twice_counts_once() -> None:
    job: Submission[str] = Submission(2)
    job.deliver(0, "first", 1.0)
    job.deliver(0, "again", 2.0)
    assert not job.done
    job.deliver(1, "second", 3.0)
    job.deliver(1, "again", 4.0)
    assert await job.future == ["first", "second"]
    assert job.finished_at == 3.0


@on_a_loop
async def test_the_first_start_is_the_one_that_counts() -> None:
    job: Submission[str] = Submission(2)
    assert job.started_at is None
    job.start(5.0)
    job.start(6.0)
    assert job.started_at == 5.0


@on_a_loop
async def test_what_comes_after_cancelling_is_dropped() -> None:
    job: Submission[str] = Submission(2)
    job.deliver(0, "first", 1.0)
    job.cancel()
    job.deliver(1, "second", 2.0)
    job.fail(RuntimeError("late"))
    job.cancel()
    assert job.cancelled
    assert job.future.cancelled()
    assert job.finished_at is None


@on_a_loop
async def test_a_failure_ends_the_job_and_drops_its_other_rows() -> None:
    job: Submission[str] = Submission(3)
    job.deliver(0, "first", 1.0)
    job.fail(RuntimeError("the first"))
    assert job.cancelled
    assert job.done
    job.deliver(1, "second", 2.0)
    job.fail(RuntimeError("the second"))
    job.deliver(2, "third", 3.0)
    with pytest.raises(RuntimeError, match="the first"):
        await job.future
    assert job.finished_at is None


@on_a_loop
async def test_an_answered_job_takes_no_failure() -> None:
    job: Submission[str] = Submission(1)
    job.deliver(0, "only", 1.0)
    job.fail(RuntimeError("late"))
    job.cancel()
    assert await job.future == ["only"]


@on_a_loop
async def test_a_sender_that_stops_waiting_ends_the_job() -> None:
    job: Submission[str] = Submission(1)
    waiting = asyncio.ensure_future(asyncio.wait_for(job.future, timeout=None))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert job.done
    job.deliver(0, "late", 1.0)
    assert job.future.cancelled()


@pytest.mark.parametrize(
    ("end", "cancelled"),
    [
        (lambda job: job.deliver(0, "only", 1.0), False),
        (lambda job: job.fail(RuntimeError("no")), True),
        (lambda job: job.cancel(), True),
        (lambda job: (job.future.cancel(), job.cancel()), True),
        (lambda job: (job.future.cancel(), job.fail(RuntimeError("no"))), True),
    ],
    ids=["deliver", "fail", "cancel", "future.cancel and cancel", "future.cancel and fail"],
)
def test_on_end_is_called_once(end: Callable[[Submission[str]], object], cancelled: bool) -> None:
    heard: list[asyncio.Future[Sequence[str]]] = []
    ended: list[tuple[Submission[str], bool]] = []

    async def scenario() -> None:
        job: Submission[str] = Submission(1, on_end=lambda job: ended.append((job, job.cancelled)))
        job.future.add_done_callback(heard.append)
        assert ended == []
        end(job)
        assert ended == [(job, cancelled)]  # at once, not when the loop comes round to it
        end(job)
        job.deliver(0, "late", 2.0)
        job.fail(RuntimeError("late"))
        job.cancel()
        await asyncio.wait([job.future])
        await asyncio.sleep(0)
        if not job.future.cancelled():
            job.future.exception()

    asyncio.run(scenario())
    assert len(heard) == len(ended) == 1


@on_a_loop
async def test_the_end_comes_with_the_last_row() -> None:
    ended: list[Submission[str]] = []
    job: Submission[str] = Submission(2, on_end=ended.append)
    job.deliver(1, "second", 1.0)
    job.deliver(1, "again", 1.0)
    assert ended == []
    job.deliver(0, "first", 2.0)
    assert ended == [job]


@on_a_loop
async def test_rows_are_wanted_until_the_job_expires() -> None:
    job: Submission[str] = Submission(2, expires_at=12.0)
    assert [job.dropped(now) for now in (10.0, 11.999, 12.0, 13.0)] == [False, False, True, True]
    assert not job.done  # whoever waits is told by somebody else
    assert not Submission(1).dropped(1e18)


@pytest.mark.parametrize("end", [lambda job: job.cancel(), lambda job: job.fail(RuntimeError("no"))])
async def test_rows_that_nobody_waits_for_are_dropped_before_they_expire(
    end: Callable[[Submission[str]], object],
) -> None:
    job: Submission[str] = Submission(2, expires_at=12.0)
    job.deliver(0, "first", 10.0)
    assert not job.dropped(11.0)
    end(job)
    assert job.dropped(11.0)
    if not job.future.cancelled():
        assert job.future.exception()


@on_a_loop
async def test_previews_and_results_are_passed_on_as_they_come() -> None:
    job: Submission[str] = Submission(2, 0.0)
    job.preview("nobody asked")
    seen: list[object] = []
    job.on_preview = seen.append
    job.on_result = lambda row, result: seen.append((row, result, job.done))
    job.preview("sketch of 1")
    job.deliver(1, "second", 1.0)
    job.deliver(1, "again", 1.0)
    job.preview("sketch of 0")
    job.deliver(0, "first", 2.0)
    job.preview("late")
    assert seen == ["sketch of 1", (1, "second", False), "sketch of 0", (0, "first", False)]
    assert await job.future == ["first", "second"]


@on_a_loop
async def test_a_job_that_is_over_shows_nothing() -> None:
    job: Submission[str] = Submission(1, 0.0)
    seen: list[object] = []
    job.on_preview = seen.append
    job.on_result = lambda row, result: seen.append(result)
    job.cancel()
    job.preview("late")
    job.deliver(0, "late", 1.0)
    assert seen == []
