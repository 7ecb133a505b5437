from dataclasses import replace
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.checked_load import Outcome, Sample
from benchmarks.kill import Apis, Death, Engines, earliest, fate_of, judge, plan, report
from benchmarks.kill_faults import FAULTS, plant
from service.engine.rows import RowSpec
from service.link.pool import EngineLink
from service.sampling.solvers import EMPTY_PLAN
from service.supervision.restarts import RestartBudget

ENGINES = Engines(100.0, 50.0, [Death("SIGKILL", 0.5), Death("SIGSTOP", 7.9)], {"right": 900}, 8.0, 2)
APIS = Apis(16, 16, 16, 0, {"right": 99}, {"right": 8})


def missed(engines: Engines = ENGINES, apis: Apis = APIS) -> list[str]:
    return [text for text, met in judge(engines, apis).items() if not met]


def test_the_signals_are_mixed_evenly() -> None:
    assert plan(2, 1) == [SIGKILL, SIGSTOP, SIGKILL]
    thirty = plan(20, 10)
    assert (thirty.count(SIGKILL), thirty.count(SIGSTOP)) == (20, 10)
    assert all(SIGSTOP in thirty[at : at + 4] for at in range(27))


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 10.0)), min_size=1, max_size=40))
def test_deaths_never_use_up_the_budget_of_restarts(pauses: list[tuple[float, float]]) -> None:
    """Each pause comes before a death, and each delay between a death and when the benchmark noticed it."""
    now = 1000.0
    budget, died = RestartBudget(clock=lambda: now), list[float]()
    for pause, delay in pauses:
        now = max(now + pause, earliest(died, budget))
        assert budget.note()
        now += delay
        died.append(now)


def test_a_few_deaths_need_not_wait() -> None:
    assert earliest([1.0, 2.0, 3.0], RestartBudget()) < 0


def test_all_is_well() -> None:
    assert missed() == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"outcomes": {"right": 899, "wrong": 1}}, "1 wrong pictures"),
        ({"outcomes": {"right": 898, "refused": 1, "unanswered": 1}}, "2 failed of 900"),
        ({"outcomes": {}}, "0 failed of 0"),
        ({"deaths": [Death("SIGKILL", 3.1), Death("SIGSTOP", 7.9)]}, "SIGKILL: 3.10 s"),
        ({"deaths": [Death("SIGKILL", 0.5), Death("SIGSTOP", float("inf"))]}, "SIGSTOP: inf s"),
        ({"ended": 3}, "3 engines ended, goal 2"),
    ],
)
def test_one_fault_of_an_engine_misses_one_goal(change: dict[str, Any], text: str) -> None:
    (found,) = missed(replace(ENGINES, **change))
    assert text in found


@pytest.mark.parametrize(
    "change",
    [
        {"others_broken": 1},
        {"outcomes": {"right": 98, "wrong": 1}},
        {"new_outcomes": {"right": 7, "broken": 1}},
        {"owned": 0, "broken": 0},
        {"others": 0},
    ],
)
def test_a_dead_api_process_may_break_its_own_connections_only(change: dict[str, Any]) -> None:
    (found,) = missed(apis=replace(APIS, **change))
    assert "an API process dies" in found


def test_connections_are_sorted_by_their_process() -> None:
    def samples(*outcomes: Outcome) -> list[Sample]:
        return [Sample(0.0, 1.0, outcome) for outcome in outcomes]

    by_port = {1: samples("right", "broken"), 2: samples("right"), 3: samples("right", "broken")}
    assert fate_of({1, 4}, by_port, samples("right")) == Apis(2, 1, 1, 1, {"right": 2, "broken": 1}, {"right": 1})


def test_a_report_has_the_reasons_of_refusals() -> None:
    lines = "\n".join(report(replace(ENGINES, refusals=["500 no"]), APIS))
    assert "refused: 500 no" in lines
    assert "1 x SIGSTOP: next answer after 7.90 s" in lines


@pytest.mark.parametrize(("fault", "seeds"), [("lost", []), ("wrong", [6])])
async def test_a_planted_fault_changes_the_rows_of_the_next_engine(
    fault: str, seeds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []

    async def attach(self: EngineLink, path: Path, inside: object) -> None:
        sent.extend(row.spec.seed for each in self._sent.values() for row in each.rows.values())

    monkeypatch.setattr(EngineLink, "attach", attach)
    plant(FAULTS[fault])
    link = EngineLink(0, lambda number: None, shares=False)
    row = SimpleNamespace(spec=RowSpec(5, 0, 1.0, EMPTY_PLAN))
    link._sent[1] = cast(Any, SimpleNamespace(rows={0: row}))
    await link.attach(Path("socket"), [])
    assert sent == seeds
