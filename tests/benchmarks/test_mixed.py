from math import inf

import pytest

from benchmarks.mixed import MIX, MOST_ROWS, Round, judge, row_steps, summarise
from benchmarks.open_loop import KindOutcome, Latencies, OpenOutcome

NONE = Latencies(0, None, None)


def kind(steps: int, count: int, p50_ms: float | None, p99_ms: float | None, sent: int | None = None) -> KindOutcome:
    ok = Latencies(count, p50_ms, p99_ms)
    return KindOutcome(f"{steps} steps", count if sent is None else sent, ok, count, NONE, 0, NONE, ok, 0)


def one_round(p99_ms: float, row_steps_per_s: float = 500.0, rows: float | None = 8.0, lag_ms: float = 1.0) -> Round:
    kinds = [kind(steps, 10, p99_ms / 2, p99_ms) for steps in MIX]
    return Round(OpenOutcome(lag_ms, 60.0, 66.0, 0.0, kinds), row_steps_per_s, rows)


def test_only_pictures_that_came_count_as_steps_done() -> None:
    kinds = [kind(5, 2, 1.0, 1.0), kind(20, 1, 1.0, 1.0), kind(100, 0, None, None, sent=3), kind(1000, 1, 1.0, 1.0)]
    assert row_steps(kinds) == 2 * 5 + 20 + 1000


def test_rounds_are_summed_up_by_their_medians() -> None:
    summary = summarise([one_round(10, 400, 8), one_round(90, 500, 4), one_round(20, 600, 12, lag_ms=9)])
    assert summary.p99_ms == {f"{steps} steps": 20 for steps in MIX}
    assert summary.p50_ms["5 steps"] == 10
    assert (summary.row_steps_per_s, summary.rows_per_tick, summary.occupancy) == (500, 8, 8 / MOST_ROWS)
    assert (summary.unanswered, summary.void_rounds) == (0, 1)


def test_a_server_that_tells_no_rows_has_none() -> None:
    summary = summarise([one_round(10, rows=None)])
    assert summary.rows_per_tick is None
    assert summary.occupancy is None


def test_no_picture_at_all_is_no_low_latency() -> None:
    kinds = [kind(steps, 0, None, None, sent=2) for steps in MIX]
    summary = summarise([Round(OpenOutcome(1.0, 60.0, 0.0, 0.0, kinds), 0.0, None)])
    assert summary.p99_ms["5 steps"] == inf
    assert summary.unanswered == 8


@pytest.mark.parametrize(
    ("p99_ms", "row_steps_per_s", "met"),
    [(101.0, 500.0, [True, True]), (99.0, 400.0, [False, True]), (200.0, 600.0, [True, False])],
)
def test_goals_compare_step_with_every_other(p99_ms: float, row_steps_per_s: float, met: list[bool]) -> None:
    summaries = {"step": summarise([one_round(10.0)]), "other": summarise([one_round(p99_ms, row_steps_per_s)])}
    assert list(judge(summaries).values()) == met
