"""What the runs come to: medians of the rounds, and how many times better we are than a peer. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from benchmarks.load import Outcome
from benchmarks.report import verdict

OURS = "ours"

Metric = Literal["answers_per_s", "p50_ms", "p99_ms"]
_METRICS: dict[Metric, str] = {"answers_per_s": "answers/s", "p50_ms": "p50", "p99_ms": "p99"}


@dataclass(frozen=True)
class Case:
    """What was measured, and how: a server, asked by so many connections."""

    scenario: str
    server: str
    connections: int


@dataclass(frozen=True)
class Run:
    """One measurement."""

    round: int
    case: Case
    outcome: Outcome


@dataclass(frozen=True)
class Failure:
    """A server that has no figures for a round, and why."""

    round: int
    scenario: str
    server: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """Medians over the rounds that have figures, and the least and greatest number of answers a second."""

    case: Case
    rounds: int
    answers_per_s: float
    least: float
    greatest: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Goal:
    """How many times better than a peer we want to be: in answers a second, or in how short a latency is."""

    peer: str
    metric: Metric
    scenario: str
    connections: int
    at_least: float


@dataclass(frozen=True)
class Verdict:
    """A goal and what was reached: the median of the rounds' ratios and their spread; none where not measured."""

    goal: Goal
    ratio: float | None = None
    least: float | None = None
    greatest: float | None = None

    @property
    def met(self) -> bool:
        """Only what was measured can be met."""
        return self.ratio is not None and self.ratio >= self.goal.at_least


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """A summary for each case, in the order in which they were first measured."""
    return [_summary(case, [run.outcome for run in runs if run.case == case]) for case in _cases(runs)]


def judge(goal: Goal, runs: Sequence[Run]) -> Verdict:
    """Ours against the peer's of the same round, for the machine is another one a minute later."""
    ours, theirs = (
        {run.round: getattr(run.outcome, goal.metric) for run in runs if run.case == case}
        for case in (Case(goal.scenario, server, goal.connections) for server in (OURS, goal.peer))
    )
    ratios = [
        ours[number] / theirs[number] if goal.metric == "answers_per_s" else theirs[number] / ours[number]
        for number in ours.keys() & theirs.keys()
    ]
    return Verdict(goal, median(ratios), min(ratios), max(ratios)) if ratios else Verdict(goal)


def table(summaries: Iterable[Summary]) -> list[str]:
    """A line for each case."""
    head = f"{'scenario':12}{'server':18}{'connections':>11}{'answers/s':>11}{'least':>8}{'greatest':>10}"
    return [
        f"{head}{'p50, ms':>10}{'p99, ms':>10}{'rounds':>8}",
        *(
            f"{each.case.scenario:12}{each.case.server:18}{each.case.connections:>11}{each.answers_per_s:>11.0f}"
            f"{each.least:>8.0f}{each.greatest:>10.0f}{each.p50_ms:>10.2f}{each.p99_ms:>10.2f}{each.rounds:>8}"
            for each in summaries
        ),
    ]


def sentence(reached: Verdict) -> str:
    """A goal, what was reached, and whether that will do."""
    goal = reached.goal
    wanted = f"{_METRICS[goal.metric]} at {goal.connections:>2} connections, {goal.scenario}, against {goal.peer}"
    if reached.ratio is None:
        return f"{wanted}: not measured, goal {goal.at_least:g}"
    ratio = f"{reached.ratio:.2f} times better ({reached.least:.2f} to {reached.greatest:.2f})"
    return f"{wanted}: {ratio}, goal {goal.at_least:g}: {verdict(reached.met)}"


def _summary(case: Case, outcomes: Sequence[Outcome]) -> Summary:
    rates = [outcome.answers_per_s for outcome in outcomes]
    p50, p99 = (median(getattr(outcome, name) for outcome in outcomes) for name in ("p50_ms", "p99_ms"))
    return Summary(case, len(outcomes), median(rates), min(rates), max(rates), p50, p99)


def _cases(runs: Iterable[Run]) -> list[Case]:
    return list(dict.fromkeys(run.case for run in runs))
