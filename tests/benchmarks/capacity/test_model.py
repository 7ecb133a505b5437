import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.cores import Clock, Cores
from benchmarks.capacity.model import Costs, Fleet, Kind, Outcome, Shape
from benchmarks.load import p50_p99
from benchmarks.open_loop import Arrival, poisson

TICK = Costs({1: 0.010}, bucket=1)
BATCHES = Costs({1: 0.002, 8: 0.006, 16: 0.010}, 16, api_turn_s=0.0002, api_request_s=0.0004, transit_s=0.001)

shapes = st.builds(
    Shape, st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.sampled_from([1, 2, 8]), st.booleans()
)
kinds = st.lists(st.builds(Kind, st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3)


@given(shapes, kinds, st.integers(1, 3), st.floats(1, 400), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_request_is_answered_once_and_no_core_does_more_than_its_time(
    shape: Shape, kinds: list[Kind], replicas: int, rate: float, seed: int
) -> None:
    arrivals = poisson(rate, 1.0, [1] * len(kinds), seed)
    outcome = Fleet(BATCHES, shape, replicas, kinds, seed=seed).simulate(arrivals)
    assert outcome.arrived == outcome.answered == len(arrivals)
    sent = [sum(arrival.kind == kind for arrival in arrivals) for kind in range(len(kinds))]
    assert [len(each) for each in outcome.latencies_ms] == sent
    assert 0 <= outcome.utilisation <= 1 + 1e-9
    assert 0 <= outcome.gpu_utilisation <= shape.threads + 1e-9
    for kind, latencies_ms in zip(kinds, outcome.latencies_ms, strict=True):
        least_s = kind.steps * BATCHES.tick(1) + BATCHES.transit_s + BATCHES.api_request_s
        assert all(each >= 1000 * least_s for each in latencies_ms)


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12), st.integers(1, 4))
def test_threads_that_share_cores_do_all_of_their_work(works_s: list[float], count: int) -> None:
    clock, ended = Clock(), list[float]()
    cores = Cores(clock, count)
    for work_s in works_s:
        cores.work(work_s, lambda: ended.append(clock.now))
    clock.run()
    assert cores.used_s == pytest.approx(sum(works_s))
    assert ended == sorted(ended)
    assert len(ended) == len(works_s)
    assert ended[-1] >= max(max(works_s), sum(works_s) / count) - 1e-9


def test_two_threads_on_one_core_take_turns() -> None:
    clock, ended = Clock(), list[float]()
    cores = Cores(clock, 1)
    cores.work(1.0, lambda: ended.append(clock.now))
    clock.at(0.5, lambda: cores.work(0.25, lambda: ended.append(clock.now)))
    clock.run()
    assert ended == [1.0, 1.25]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_row_at_a_time_is_an_md1_queue(load: float) -> None:
    """Pollaczek and Khinchine: the mean wait with service time s is load * s / (2 * (1 - load))."""
    waits = []
    for seed in range(3):
        arrivals = poisson(load / 0.010, 100.0, [1], seed)
        waits.append(fmean(Fleet(TICK, seed=seed).simulate(arrivals).all_ms()) - 10.0)
    assert fmean(waits) == pytest.approx(10.0 * load / (2 * (1 - load)), rel=0.15)


def test_the_p99_grows_with_the_load_on_average() -> None:
    def p99(rate: float) -> float:
        outcomes = [Fleet(BATCHES, Shape(cores=2)).simulate(poisson(rate, 5.0, [1], seed)) for seed in range(3)]
        return fmean(p50_p99(outcome.all_ms())[1] for outcome in outcomes)

    p99s = [p99(rate) for rate in (50, 200, 400, 800)]
    assert p99s == sorted(p99s)


def test_rows_join_a_request_under_way_and_leave_before_it_ends() -> None:
    costs = Costs({1: 0.01, 2: 0.01}, bucket=2)
    outcome = Fleet(costs, kinds=[Kind(steps=10), Kind(steps=2)]).simulate([Arrival(0.0, 0), Arrival(0.015, 1)])
    assert outcome.latencies_ms[0] == pytest.approx([100.0])
    assert outcome.latencies_ms[1] == pytest.approx([25.0])
    assert outcome.rows_per_tick == pytest.approx(1.2)


def test_ready_rows_are_shared_by_idle_threads_and_bounded_by_the_bucket() -> None:
    costs = Costs({1: 0.01, 4: 0.04}, bucket=2)
    outcome = Fleet(costs, Shape(threads=2), kinds=[Kind(rows=6)]).simulate([Arrival(0.0, 0)])
    assert outcome.rows_per_tick == 2
    assert outcome.all_ms() == pytest.approx([40.0])


def test_an_api_process_shares_the_cost_of_a_turn_among_what_has_arrived() -> None:
    costs = Costs({1: 0.0, 8: 0.0}, 8, api_turn_s=0.010, api_request_s=0.002)
    outcome = Fleet(costs).simulate([Arrival(0.0, 0), Arrival(0.001, 0), Arrival(0.002, 0)])
    # Turns: one request, 11 ms; two requests, 12 ms; the first one's answer, 11 ms; two answers, 12 ms.
    assert outcome.all_ms() == pytest.approx([34.0, 45.0, 44.0])


def test_users_ask_again_after_each_answer() -> None:
    fleet = Fleet(Costs({1: 0.1}, 1), think_s=0.0, until_s=1.05)
    outcome = fleet.simulate([Arrival(0.0, 0)])
    assert outcome.answered == 11
    assert outcome.answers_per_s == pytest.approx(10 / 1.05)


def test_what_arrives_before_the_measurement_is_not_measured() -> None:
    outcome = Fleet(TICK, since_s=0.5).simulate([Arrival(0.0, 0), Arrival(0.6, 0)])
    assert (outcome.answered, len(outcome.all_ms())) == (2, 1)


def test_a_simulation_is_determined_by_its_arguments() -> None:
    def once() -> Outcome:
        return Fleet(BATCHES, Shape(apis=2, engines=2), 3, seed=5).simulate(poisson(300, 2.0, [1], 1))

    assert once() == once()


def test_costs_are_linear_between_and_beyond_what_was_measured() -> None:
    assert [BATCHES.tick(rows) for rows in (0.5, 1, 4.5, 16, 24)] == pytest.approx([0.002, 0.002, 0.004, 0.010, 0.014])
    assert TICK.tick(3) == pytest.approx(0.030)
    assert BATCHES.work_s(Kind(rows=2, steps=20)) == pytest.approx(40 * 0.010 / 16)


@given(st.randoms(use_true_random=False))
def test_actions_happen_in_the_order_of_their_times(chance: random.Random) -> None:
    clock, seen = Clock(), list[float]()
    for _ in range(20):
        clock.at(chance.random(), lambda: seen.append(clock.now))
    clock.run()
    assert seen == sorted(seen)
