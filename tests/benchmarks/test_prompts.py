import json
from itertools import islice
from math import isnan, nan

import pytest

from benchmarks.prompt_clients import STEPS, Counts, Round, Sample, asks, summarise
from benchmarks.prompts import BATCHES, ONE, OURS, Bare, judge, speed_at, spread


def one_round(p99_ms: float, row_steps_per_s: float, rows_per_call: float = 2.0) -> Round:
    return Round(p99_ms / 2, p99_ms, 5, 20, row_steps_per_s, rows_per_call)


def test_a_client_asks_for_the_same_pictures_in_each_round_of_a_seed() -> None:
    first, again, other = ([*islice(asks(seed), 50)] for seed in (3, 3, 4))
    assert first == again != other
    assert {ask.steps for ask in first} == set(STEPS)
    assert all(json.loads(ask.body)["steps"] == ask.steps for ask in first)


def test_a_round_has_the_latencies_of_the_shortest_and_the_speed_of_the_unet() -> None:
    samples = [Sample(4, 10.0), Sample(4, 30.0), Sample(4, 20.0), Sample(50, 900.0)]
    found = summarise(samples, Counts(100, 50), Counts(500, 150), passed_s=2.0)
    assert found == Round(20.0, 30.0, 3, 4, 200.0, 4.0)


def test_a_round_without_short_requests_has_no_latencies_and_meets_no_goal() -> None:
    found = summarise([Sample(50, 900.0)], Counts(0, 0), Counts(4, 2), passed_s=2.0)
    assert isnan(found.p50_ms)
    assert isnan(found.p99_ms)
    missing = one_round(nan, 50)
    goals = judge({OURS: [one_round(10, 100)], ONE: [missing], BATCHES: [missing]}, [BARE])
    assert [met for text, met in goals.items() if text.startswith("p99")] == [False, False]


BARE = Bare({1: 50.0, 4: 100.0}, {1: 60.0, 4: 80.0})


def test_the_time_of_a_call_is_linear_between_measured_numbers_of_rows() -> None:
    assert speed_at(BARE.each, 1) == pytest.approx(50)
    assert speed_at(BARE.each, 4) == pytest.approx(100)
    assert speed_at(BARE.each, 2.5) == pytest.approx(2.5 / 0.03)  # between 20 and 40 ms
    assert speed_at(BARE.each, 9) == pytest.approx(100)


def test_the_bare_unet_is_the_faster_of_both_ways() -> None:
    assert (BARE.best(1), BARE.best(4)) == pytest.approx((60, 100))


@pytest.mark.parametrize(
    ("p99_ms", "row_steps_per_s", "met"),
    [(100.0, 99.0, [True, True, True, True]), (99.0, 77.0, [False, False, False, False])],
)
def test_goals_are_the_medians_of_ratios_by_round(p99_ms: float, row_steps_per_s: float, met: list[bool]) -> None:
    slow, other = one_round(p99_ms, 70.0), one_round(p99_ms, 60.0)
    ours = [one_round(10.0, row_steps_per_s, rows_per_call=4.0)]
    goals = judge({OURS: ours, ONE: [slow], BATCHES: [other]}, [BARE])
    assert list(goals.values()) == met


def test_several_figures_have_a_spread() -> None:
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0 to 3.0)"
    assert spread([2.0], 1) == "2.0"
