import asyncio
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from service.background import Background, log_failure


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def test_a_step_that_raises_is_counted_shown_and_repeated(caplog: pytest.LogCaptureFixture) -> None:
    failed: list[str] = []
    outcomes: list[Exception | None] = [None, OSError("disk"), OSError("disk"), KeyError("x"), None]
    made = 0

    async def step() -> None:
        nonlocal made
        outcome = outcomes[made] if made < len(outcomes) else None
        made += 1
        await asyncio.sleep(0)
        if outcome is not None:
            raise outcome

    async def scenario() -> None:
        background = Background(failed.append)
        background.repeat("look", step, 0)
        await until(lambda: "disk" in background.failing.get("look", ""))
        await until(lambda: made > len(outcomes))
        assert background.failing == {}  # the last step was a good one
        background.stop()

    asyncio.run(scenario())
    assert failed == ["look"] * 3
    # Each reason once, however often it comes in a row.
    assert [vars(record)["reason"] for record in caplog.records] == ["OSError: disk", "KeyError: 'x'"]


async def test_steps_that_do_not_wait_are_repeated_too_and_none_is_made_after_the_stop() -> None:
    made: list[int] = []

    background = Background(lambda name: None)
    background.repeat("count", lambda: made.append(1), 0)
    await until(lambda: len(made) > 3)
    background.stop()
    count = len(made)
    await asyncio.sleep(0.01)
    assert len(made) == count


def test_a_failure_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    failed: Future[None] = Future()
    failed.add_done_callback(log_failure)
    failed.set_exception(OSError("disk"))
    cancelled: Future[None] = Future()
    cancelled.add_done_callback(log_failure)
    cancelled.cancel()
    (record,) = caplog.records
    assert vars(record)["reason"] == "disk"
