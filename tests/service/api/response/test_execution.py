"""Deadline, disconnect and cancel stop an execution in one way, and it gives back what it reserved."""

import asyncio
import time
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request

from service.api.order import Begin, Compute, Order
from service.api.request.schemas import GenerateRequest
from service.api.response.execution import Execution, admit
from service.api.tasks.generate import generate_order
from service.errors import DeadlineExceeded, JobCanceled
from service.settings import Settings
from tests.service.api.conftest import ask, read_series, running, value
from tests.service.api.runs import blocked, nothing_is_held, state_of, until


@pytest.fixture
def settings(all_tasks: Settings) -> Settings:
    return all_tasks


async def prepared_at_once(order: Order, compute: Compute) -> Order:
    return order


async def never_prepared(order: Order, compute: Compute) -> Order:
    await asyncio.Event().wait()
    return order


async def prepared_too_late(order: Order, compute: Compute) -> Order:
    raise TimeoutError("of its own")


def admitted(app: FastAPI, change: Callable[[Order], Order] = lambda order: order, limit_s: float = 60.0) -> Execution:
    """An execution of one picture, ``change`` made to its order."""
    state = state_of(app)
    order = generate_order(state, GenerateRequest(seed=1), state.deployment("vae"), "image/png")
    scope: dict[str, object] = {
        "type": "http",
        "client": None,
        "headers": [],
        "state": {"arrived_at": time.monotonic()},
    }
    return admit(Request(scope), state, change(order), limit_s)


async def cancelled_by(app: FastAPI, reason: str) -> float:
    samples = read_series((await ask(app, "/metrics", method="GET")).body.decode())
    return value(samples, "cancelled_total", model="vae", reason=reason)


@pytest.mark.parametrize("begin", [None, prepared_at_once, never_prepared])
@pytest.mark.parametrize("started", [True, False])
async def test_a_stopped_execution_raises_what_stopped_it(
    settings: Settings, begin: Begin | None, started: bool
) -> None:
    async with running(settings) as app:
        with blocked(app):
            execution = admitted(app, lambda order: order._replace(begin=begin))
            task = asyncio.ensure_future(execution.run())
            if started:
                await asyncio.sleep(0.01)
            execution.stop(ClientDisconnect(), counted="client-left")
            assert state_of(app).deployment("vae").gate.accepted_ms == 0  # at once, for the next request
            execution.stop(JobCanceled("a"))  # the first one counts
            with pytest.raises(ClientDisconnect):
                await task
            assert nothing_is_held(app)
        assert await cancelled_by(app, "client-left") == 1


async def test_a_stop_between_two_parts_computes_nothing_more(settings: Settings) -> None:
    async def prepared_in_parts(order: Order, compute: Compute) -> Order:
        asyncio.get_running_loop().call_soon(execution.stop, JobCanceled("a"))
        await asyncio.sleep(0)  # the stop comes first, and then this goes on before the task is cancelled
        await compute(order.rows)
        raise AssertionError

    async with running(settings) as app:
        execution = admitted(app, lambda order: order._replace(begin=prepared_in_parts))
        with pytest.raises(JobCanceled):
            await execution.run()
        assert nothing_is_held(app)


@pytest.mark.parametrize("begin", [None, never_prepared])
async def test_the_deadline_stops_it(settings: Settings, begin: Begin | None) -> None:
    async with running(settings) as app:
        with blocked(app):
            execution = admitted(app, lambda order: order._replace(begin=begin), limit_s=0.05)
            with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
                await execution.run()
            assert nothing_is_held(app)
        assert await cancelled_by(app, "too-late") == 1


async def test_a_stop_that_comes_after_the_last_result_changes_nothing(settings: Settings) -> None:
    async with running(settings) as app:
        execution = admitted(app)
        submission = execution.enqueue()
        assert submission is not None
        task = asyncio.create_task(execution.run())
        submission.future.add_done_callback(lambda _: execution.stop(ClientDisconnect(), counted="client-left"))
        assert len((await task).pictures) == 1
        execution.stop(ClientDisconnect(), counted="client-left")
        assert await cancelled_by(app, "client-left") == 0
        assert nothing_is_held(app)


async def test_a_timeout_inside_is_not_the_deadline(settings: Settings) -> None:
    async with running(settings) as app:
        execution = admitted(app, lambda order: order._replace(begin=prepared_too_late))
        with pytest.raises(TimeoutError, match="of its own"):
            await execution.run()
        assert nothing_is_held(app)


async def test_a_task_that_is_cancelled_gives_back_all_that_was_taken(settings: Settings) -> None:
    async with running(settings) as app:
        with blocked(app):
            execution = admitted(app)
            task = asyncio.create_task(execution.run())
            await until(lambda: not nothing_is_held(app))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert nothing_is_held(app)
