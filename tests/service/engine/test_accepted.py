"""Requests that are accepted as a whole: their parts, their price, and how far they are."""

import asyncio
from collections.abc import Callable

import pytest

from service.engine.accepted import Accepted
from service.engine.engine import Engine
from service.engine.pricing import Part
from service.engine.results import Picture
from service.engine.rows import RowSpec
from service.engine.submission import Submission
from service.errors import Overloaded, TooExpensive
from service.models.registry import Registry
from service.settings import Settings
from tests.service.engine.conftest import request_rows


def admitted(engine: Engine, rows: list[RowSpec]) -> tuple[Accepted, Submission[Picture]]:
    """A request of ddpm, accepted and submitted."""
    accepted = engine.admit(engine.deployments["ddpm"], [Part(len(rows), rows[0].calls)])
    return accepted, accepted.submit(rows)


async def test_a_request_reports_its_progress(
    running: Callable[..., object], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.progress.REFRESH_S", 0.0)

    async with running(start=False, client_share=1.0, max_queue_ms=1e9) as (engine, _):  # type: ignore[attr-defined]
        plan = registry.served["ddpm"].model.plan
        first, job = admitted(engine, request_rows(2, 0, 0, 2.0, plan("ddim", 10)))
        second, other = admitted(engine, request_rows(3, 0, 0, 1.0, plan("ddim", 5)))
        cost = registry.served["ddpm"].cost
        before, after = first.progress(), second.progress()
        assert (before.rows_ahead, before.calls_left, first.calls) == (0, 40, 40)
        assert (after.rows_ahead, after.calls_left, second.calls) == (1, 15, 15)
        # Two threads: of the first two rows 20 calls each, of the others 5; neither sooner than it would be alone.
        assert before.eta_ms == pytest.approx(max((2 * 20 + 3 * 5) * cost.row_ms() / 2, 20 * cost.forward_ms(1)))
        assert after.eta_ms == pytest.approx(max(5 * 5 * cost.row_ms() / 2, 5 * cost.forward_ms(2)))
        lane = engine.deployments["ddpm"].lane
        slots = lane.claim(None, 1)
        lane.complete_tick(lane.compute(slots), spent_ms=1.0)
        assert first.progress().calls_left + second.progress().calls_left < 55
        assert second.progress().rows_ahead == 0
    await asyncio.gather(job.future, other.future)
    assert first.progress() == (0, 0, 0)


async def test_all_parts_of_a_request_are_paid_for_before_the_first_and_given_back_one_by_one(
    running: Callable[..., object], registry: Registry
) -> None:
    room = 100 * registry.served["ddpm"].cost.row_ms()
    async with running(start=False, max_queue_ms=room, client_share=1.0) as (engine, _):  # type: ignore[attr-defined]
        ddpm = engine.deployments["ddpm"]
        accepted = engine.admit(ddpm, [Part(1, 60), Part(1, 40)])
        assert ddpm.gate.accepted_ms == pytest.approx(room, abs=1e-4)
        with pytest.raises(Overloaded):
            engine.admit(ddpm, [Part(1, 1)])
        plan = registry.served["ddpm"].model.plan
        accepted.submit(request_rows(1, 0, 0, 1.0, plan("ddim", 60))).cancel()
        assert ddpm.gate.accepted_ms == pytest.approx(0.4 * room, abs=1e-4)
        accepted.submit(request_rows(1, 0, 0, 1.0, plan("ddim", 40)))
        accepted.close()
        accepted.close()
        assert ddpm.gate.accepted_ms == 0
        engine.admit(ddpm, [Part(2, 30), Part(1, 40)]).close()
        assert ddpm.gate.accepted_ms == 0


async def test_a_request_that_one_gate_refuses_takes_nothing_of_another(
    running: Callable[..., object],
) -> None:
    async with running(start=False, max_queue_ms=1e-6) as (engine, _):  # type: ignore[attr-defined]
        coder = engine.deployments["coder"]
        held = engine.admit(coder, [Part(1, 1)])
        with pytest.raises(Overloaded):
            engine.admit(coder, [Part(1, 1, encodes=True), Part(1, 1)])
        assert coder.encoder is not None
        assert coder.encoder.gate.accepted_ms == 0
        held.close()
        assert coder.gate.accepted_ms == 0


async def test_one_request_cannot_take_an_idle_model_from_everybody(
    running: Callable[..., object], registry: Registry
) -> None:
    """Priced as at warm-up: what was accepted once is not refused for what other work costs just now."""

    cost = registry.served["ddpm"].cost
    limit = 100 * cost.warmup_row_ms()
    async with running(start=False, max_request_ms=limit) as (engine, _):  # type: ignore[attr-defined]
        ddpm = engine.deployments["ddpm"]
        for ratio in (0.5, 1.0, 3.0):
            cost.ratio = ratio
            engine.admit(ddpm, [Part(2, 50)]).close()
            for parts in ([Part(2, 51)], [Part(2, 40), Part(1, 21)]):
                with pytest.raises(TooExpensive) as refusal:
                    engine.admit(ddpm, parts)
                assert refusal.value.retry_after_s is None
                assert refusal.value.limit_s == pytest.approx(limit / 1000)
        assert ddpm.gate.accepted_ms == 0
        cost.ratio = 1.0


def test_half_of_the_queue_is_the_most_that_a_request_takes_where_no_setting_says_so() -> None:
    assert Settings(max_queue_ms=3000.0).request_limit_ms == 1500.0
    assert Settings(max_queue_ms=3000.0, max_request_ms=4000.0).request_limit_ms == 4000.0


def test_one_picture_by_the_defaults_is_never_too_expensive(
    running: Callable[..., object], registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(start=False, max_request_ms=1e-6) as (engine, _):  # type: ignore[attr-defined]
            model = registry.served["ddpm"].model
            (calls,) = {row.calls for row in request_rows(1, 0, 0, 1.0, model.plan())}
            engine.admit(engine.deployments["ddpm"], [Part(1, calls)]).close()
            with pytest.raises(TooExpensive):
                engine.admit(engine.deployments["ddpm"], [Part(2, calls)])

    asyncio.run(scenario())
    warned = {record.__dict__["model"] for record in caplog.records if "GENSERVE_MAX_REQUEST_MS" in record.message}
    assert warned >= {"ddpm", "vae", "coder"}
