import json
import platform
from math import inf
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.open_loop import KindOutcome, Latencies, OpenOutcome
from benchmarks.overload import FIGURES, assess
from benchmarks.scrape import rows_per_tick

NONE = Latencies(0, None, None)


def burst(in_time: int = 450, refused: Latencies = NONE, retry_after: int = 0) -> OpenOutcome:
    ok = Latencies(in_time, 500.0, 900.0)
    return OpenOutcome(1.0, 10.0, 10.9, 0.0, [KindOutcome("a", 4500, ok, in_time, refused, retry_after, NONE, ok, 0)])


def test_goodput_is_what_came_in_time_a_second_of_the_capacity() -> None:
    assert assess(50.0, burst(450), 1.0, 1.0).goodput_share == pytest.approx(0.9)


def test_every_refusal_is_to_say_when_to_come_back() -> None:
    refused = Latencies(4000, 1.0, 2.0)
    assert assess(50.0, burst(refused=refused, retry_after=4000), 1.0, 1.0).retry_after_share == 1
    assert assess(50.0, burst(refused=refused, retry_after=3999), 1.0, 1.0).retry_after_share < 1


def test_no_refusal_has_no_latency_to_boast_of() -> None:
    assert assess(50.0, burst(), 1.0, 1.0).refused_p99_ms == inf


def test_goals_are_of_medians_and_of_the_worst() -> None:
    refused = Latencies(4000, 1.0, 2.0)
    outcome = burst(refused=refused, retry_after=4000)
    rounds = [assess(50.0, outcome, 5.0, 1.0), assess(45.0, outcome, 31.0, 1.0), assess(60.0, outcome, 5.0, inf)]
    goals = {figure.field: figure.goal(rounds).split(": ")[-1] for figure in FIGURES}
    assert goals == {
        "goodput_share": "met",
        "pictures_p99_ms": "",
        "expired_share": "",
        "accepted_p99_ms": "met",
        "refused_p99_ms": "met",
        "retry_after_share": "met",
        "failed_share": "",
        "growth_mib": "MISSED",
        "recovery_s": "MISSED",
        "lag_p99_ms": "met",
    }


def test_rows_per_tick_is_between_two_scrapes() -> None:
    before = {"genserve_tick_rows_sum": 100.0, "genserve_tick_rows_count": 10.0}
    after = {"genserve_tick_rows_sum": 180.0, "genserve_tick_rows_count": 20.0}
    assert rows_per_tick(before, after) == 8


def test_a_record_has_its_machine_and_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    report.write_record("some", value=inf, rounds={"a": [assess(50.0, burst(), 1.0, inf)]})
    record = json.loads((tmp_path / "some.json").read_text())
    assert record["machine"]["cores"] > 0
    assert record["machine"]["python"] == platform.python_version()
    assert record["value"] is None
    assert record["rounds"]["a"][0]["outcome"]["kinds"][0]["sent"] == 4500
