import json
import random
from pathlib import Path

import pytest
from pydantic_core import to_json

from benchmarks.capacity.balance import MIX, REPLICAS, Balanced, OldWork, balance, by_way, table, two_choices, ways
from benchmarks.capacity.cores import Clock
from benchmarks.capacity.costs import MEASURED, Case, Measured, Sample, costs_of
from benchmarks.capacity.model import Costs, Fleet, Kind, Outcome, Replica, Request, Shape
from benchmarks.capacity.plan import GPU_BUCKET, Assumed, fewest
from benchmarks.capacity.plot import draw
from benchmarks.capacity.validate import WARM_UP_S, Figures, Level, closed, middle, opened
from benchmarks.open_loop import poisson

COSTS = Costs({1: 0.002, 8: 0.006}, 8)


def loop(connections: int, per_tick: float, turn_us: float, request_us: float, turns: float) -> Sample:
    """1,000 answers, each with its share of turns, and ticks of 1 ms and 0.1 ms for each row."""
    ticks = 1000 / per_tick
    api_s = 1000e-6 * (turns * turn_us + request_us)
    engine_s = ticks * (0.001 + 0.0001 * per_tick)
    return Sample(connections, 1000, api_s, engine_s, ticks, 1000.0, 500.0, 5.0)


def test_costs_are_those_that_explain_the_processor_time() -> None:
    samples = [loop(1, 1.0, 60, 100, 2.0), loop(8, 4.0, 60, 100, 0.5), loop(64, 10.0, 60, 100, 0.2)]
    costs = costs_of(samples, Kind())
    assert costs.api_turn_s == pytest.approx(60e-6)
    assert costs.api_request_s == pytest.approx(100e-6)
    assert costs.bucket == 16
    assert costs.tick_s == pytest.approx({1.0: 0.0011, 4.0: 0.0014, 10.0: 0.002})
    assert costs.transit_s == pytest.approx(0.005 - 0.0011 - 220e-6)


def test_costs_are_never_below_zero() -> None:
    samples = [loop(1, 1.0, 0, 100, 2.0), loop(64, 10.0, 0, 150, 0.2)]
    costs = costs_of(samples, Kind(steps=1000))
    assert (costs.api_turn_s, costs.transit_s) == (0, 0)


@pytest.mark.parametrize(
    ("simulated", "lag_ms", "valid"),
    [
        (Figures(114.0, 1.0, 12.9), 0.0, True),
        (Figures(84.0, 1.0, 10.0), 0.0, False),
        (Figures(100.0, 1.0, 13.1), 0.0, False),
        (Figures(100.0, 1.0, 10.0), 6.0, False),
    ],
)
def test_a_level_is_valid_within_the_bounds_and_with_a_client_in_time(
    simulated: Figures, lag_ms: float, *, valid: bool
) -> None:
    assert Level("a", 0.5, Figures(100.0, 1.0, 10.0), simulated, lag_ms).valid is valid


def test_a_simulated_closed_loop_saturates_the_cores() -> None:
    figures = closed(Case("a", Kind(), shape=Shape(cores=1)), COSTS, 32, 2.0)
    assert figures.answers_per_s == pytest.approx(8 / 0.006, rel=0.01)


def test_a_simulated_open_loop_is_measured_after_its_warm_up() -> None:
    case = Case("a", Kind(), shape=Shape(cores=1))
    figures = opened(case, COSTS, 50.0, 4.0, 0)
    counted = sum(arrival.due_s >= WARM_UP_S for arrival in poisson(50.0, WARM_UP_S + 4.0, [1], 0))
    assert figures.answers_per_s == pytest.approx(counted / 4.0, rel=0.01)
    assert figures.p50_ms == pytest.approx(2.0, rel=0.1)


def test_a_level_has_the_median_of_each_figure_of_its_rounds() -> None:
    rounds = [
        Level("a", 0.5, Figures(per_s, 1.0, p99_ms), Figures(2.0, 3.0, 4.0), lag_ms)
        for per_s, p99_ms, lag_ms in [(10.0, 90.0, 1.0), (30.0, 10.0, 9.0), (20.0, 20.0, 2.0)]
    ]
    assert middle(rounds) == Level("a", 0.5, Figures(20.0, 1.0, 20.0), Figures(2.0, 3.0, 4.0), 2.0)


def test_a_closed_loop_is_judged_by_its_answers_only() -> None:
    assert Level("a", None, Figures(100.0, 1.0, 10.0), Figures(90.0, 1.0, 90.0)).valid
    assert not Level("a", None, Figures(100.0, 1.0, 10.0), Figures(80.0, 1.0, 10.0)).valid


@pytest.mark.parametrize("enough", [1, 2, 3, 7, 8, 13])
def test_the_fewest_replicas_are_found(enough: int) -> None:
    tried = []

    def load(fleet: Fleet) -> Outcome:
        tried.append(fleet.replicas)
        p99_ms = 10.0 if fleet.replicas >= enough else 90.0
        return Outcome(1, 1, 1.0, 0.0, 1.0, 0.5, 0.0, 1.0, [[p99_ms]])

    found = fewest(lambda number: Fleet(COSTS, replicas=number), load, 50.0, most=16)
    assert found is not None
    assert found[0].replicas == enough
    assert len(tried) <= 9


def test_too_few_are_no_plan() -> None:
    slow = Outcome(1, 1, 1.0, 0.0, 1.0, 0.5, 0.0, 1.0, [[90.0]])
    assert fewest(lambda number: Fleet(COSTS, replicas=number), lambda fleet: slow, 50.0, most=3) is None


def test_a_gpu_is_assumed_from_the_cost_of_a_row_on_a_core() -> None:
    costs = Assumed(least_ms=1.0, times=100.0).on_gpu(COSTS)
    assert costs.bucket == GPU_BUCKET
    assert costs.tick(1) == pytest.approx(0.001 + 0.0000075)
    assert costs.tick(64) == pytest.approx(0.001 + 64 * 0.0000075)


def replicas_with(works: list[int]) -> list[Replica]:
    """Replicas with so many open requests, each of a second of work."""
    clock, chance = Clock(), random.Random(0)
    replicas = [Replica(clock, Shape(), COSTS, lambda request: None, chance) for _ in works]
    for replica, work in zip(replicas, works, strict=True):
        for _ in range(work):
            replica.take(Request(0, 1, 1, 0.0, 1.0))
    return replicas


@pytest.mark.parametrize("way", ["least connections", "predicted work"])
def test_the_replica_with_least_is_chosen(way: str) -> None:
    replicas = replicas_with([3, 1, 2])
    assert ways()[way](replicas, random.Random(0)) is replicas[1]


def test_of_two_choices_the_better_is_taken() -> None:
    replicas, chance = replicas_with([9, 0, 5]), random.Random(0)
    chosen = {replicas.index(two_choices(replicas, chance)) for _ in range(100)}
    assert chosen == {1, 2}


def test_old_work_is_not_noticed_before_the_next_second() -> None:
    replicas, old, chance = replicas_with([1, 0]), OldWork(), random.Random(0)
    assert old(replicas, chance) is replicas[1]
    for _ in range(5):
        replicas[1].take(Request(0, 1, 1, 0.0, 1.0))
    assert old(replicas, chance) is replicas[1]
    replicas[0].clock.now = 1.0
    assert old(replicas, chance) is replicas[0]


def test_all_ways_answer_and_chance_is_slower_than_counting_connections() -> None:
    found = {way: balance(way, COSTS, Shape(), 0.7, 5.0) for way in ("random", "least connections")}
    assert found["random"].slowdown > found["least connections"].slowdown >= 1
    assert REPLICAS > 1


def test_the_table_has_a_line_for_each_way() -> None:
    zeros = dict.fromkeys(MIX, 1.0)
    found = [Balanced(way, load, zeros, zeros, 1.0) for load in (0.5, 0.7) for way in ways()]
    assert len(table(found)) == 2 + 2 * len(ways())
    assert len({line.count("|") for line in table(found)}) == 1
    assert {len(each) for each in by_way(found).values()} == {2}


def test_recorded_costs_are_read_as_they_were_measured() -> None:
    measured = {"a": Measured(COSTS, [loop(1, 1.0, 60, 100, 2.0)])}
    assert MEASURED.validate_python(json.loads(to_json(measured))) == measured


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw(
        [Balanced(way, 0.5, dict.fromkeys(MIX, 1.0), dict.fromkeys(MIX, 2.0), 1.0) for way in ways()],
        tmp_path / "a.png",
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
