import pytest

from benchmarks.load import Outcome
from benchmarks.peers.contest import GOALS, SCENARIOS
from benchmarks.peers.goals import OURS, Case, Goal, Metric, Run, judge, sentence, summarise, table


def run(number: int, server: str, answers_per_s: float, p50_ms: float = 1.0, p99_ms: float = 2.0) -> Run:
    return Run(number, Case("as shipped", server, 64), Outcome(answers_per_s, 0, p50_ms, p99_ms, mean_ms=p50_ms))


def goal(metric: Metric, at_least: float) -> Goal:
    return Goal("mosec", metric, "as shipped", 64, at_least)


def test_a_summary_has_the_medians_and_the_spread() -> None:
    runs = [run(1, OURS, 300, p50_ms=1), run(1, "mosec", 50), run(2, OURS, 100, p50_ms=5), run(3, OURS, 200, p50_ms=3)]
    ours, mosec = summarise(runs)
    assert (ours.rounds, ours.least, ours.answers_per_s, ours.greatest, ours.p50_ms) == (3, 100, 200, 300, 3)
    assert (mosec.case.server, mosec.rounds, mosec.answers_per_s) == ("mosec", 1, 50)


def test_more_answers_are_better() -> None:
    reached = judge(goal("answers_per_s", 2.0), [run(1, OURS, 300), run(1, "mosec", 100)])
    assert reached.ratio == pytest.approx(3)
    assert reached.met


def test_shorter_latencies_are_better() -> None:
    reached = judge(goal("p50_ms", 1.0), [run(1, OURS, 1, p50_ms=4), run(1, "mosec", 1, p50_ms=2)])
    assert reached.ratio == pytest.approx(0.5)
    assert not reached.met


def test_only_servers_of_one_round_are_compared() -> None:
    """The second round was on a slower machine, and in the third mosec failed."""
    runs = [run(1, OURS, 200), run(1, "mosec", 100), run(2, OURS, 60), run(2, "mosec", 20), run(3, OURS, 900)]
    reached = judge(goal("answers_per_s", 1.0), runs)
    assert (reached.least, reached.ratio, reached.greatest) == pytest.approx((2, 2.5, 3))


def test_what_was_not_measured_is_not_met_and_said_so() -> None:
    reached = judge(goal("answers_per_s", 0.0), [run(1, OURS, 200)])
    assert not reached.met
    assert "not measured" in sentence(reached)


def test_a_goal_reads_as_met_or_missed() -> None:
    runs = [run(1, OURS, 200), run(1, "mosec", 100)]
    assert sentence(judge(goal("answers_per_s", 1.5), runs)).endswith("goal 1.5: met")
    assert sentence(judge(goal("answers_per_s", 2.5), runs)).endswith("goal 2.5: MISSED")


def test_the_table_has_a_line_for_each_case_under_its_head() -> None:
    head, *lines = table(summarise([run(1, OURS, 200), run(1, "mosec", 100)]))
    assert [line.split()[2] for line in lines] == [OURS, "mosec"]
    assert {len(line) for line in lines} == {len(head)}


@pytest.mark.parametrize("wanted", GOALS)
def test_every_goal_is_about_something_measured(wanted: Goal) -> None:
    scenario = next(each for each in SCENARIOS if each.name == wanted.scenario)
    assert {OURS, wanted.peer} <= set(scenario.servers)
    assert wanted.connections in scenario.connections
