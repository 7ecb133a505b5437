"""The service in several processes (the default) against the service in one (GENSERVE_ENGINE=inline).

First each kind is started alone, in turn, with three models: seconds until ready, and memory (PSS) of all its processes
once it is idle. Then one service of each kind runs, and they are loaded in short bursts in turn; see
``benchmarks.bursts``. Services and client share all cores, but for "inline, one core": it has the first core and one
engine thread, and its client the last core.

    python -m benchmarks.processes                   tables, goals, and benchmarks/results/processes.json
    python -m benchmarks.processes --rounds 20       closer quartiles
"""

import argparse
import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from benchmarks.bursts import Burst, Case, burst, in_turn, quartiles, ratios, summary
from benchmarks.clients import last_core
from benchmarks.report import verdict, write_record
from benchmarks.rest import THREE
from benchmarks.server import Service, service_process, some_models


class Contender(NamedTuple):
    """A way to run the service; with ``pinned``, on one core and its client on another."""

    settings: dict[str, str]
    pinned: bool = False

    def start(self, **more: str) -> AbstractContextManager[Service]:
        """Start it."""
        return service_process("0" if self.pinned else None, **self.settings, **more)

    @property
    def client_core(self) -> int | None:
        """The core of its client, None for any."""
        return last_core() if self.pinned else None


INLINE, PINNED, PROCESSES, NO_SPARE = "inline", "inline, one core", "processes", "processes, no spare"

CONTENDERS = {
    INLINE: Contender({"engine": "inline"}),
    PINNED: Contender({"engine": "inline", "engine_threads": "1"}, pinned=True),
    PROCESSES: Contender({"engine": "processes"}),
    NO_SPARE: Contender({"engine": "processes", "spare_engine": "false"}),
}
STARTED, LOADED = (INLINE, PROCESSES, NO_SPARE), (INLINE, PINNED, PROCESSES)

MANY = Case("quick-gan, n = 1, 64 connections", "/generate/quick-gan", {}, 64)
LARGE = Case("quick-gan, n = 16, 8 connections", "/generate/quick-gan", {"n": 16}, 8)
SLOW = Case("ddpm, n = 4, 16 connections", "/generate/ddpm", {"n": 4}, 16, length=4.0)
LONE = Case("quick-gan, n = 1, 1 connection", "/generate/quick-gan", {}, 1)
CASES = (MANY, LARGE, SLOW, LONE)

Metric = Literal["answers_per_s", "cpu_us", "p50_ms"]


class Goal(NamedTuple):
    """The bound of a ratio: the processes' figure over another contender's, the median of all rounds."""

    case: Case
    metric: Metric
    other: str
    at_least: float = 0.0
    at_most: float = float("inf")

    def reached(self, bursts: Mapping[str, list[Burst]]) -> tuple[str, bool]:
        """The figure in words, and whether it is within the bound; ``bursts`` are the case's by contender."""
        figures = ratios_to(self.other, self.metric, bursts)
        wanted = f"at least {self.at_least:g}" if self.at_least else f"at most {self.at_most:g}"
        text = f"{self.case.name}: {self.metric} {summary(figures)} x {self.other}'s, goal {wanted}"
        return text, self.at_least <= quartiles(figures)[1] <= self.at_most


GOALS = (
    Goal(MANY, "cpu_us", INLINE, at_most=1.05),
    Goal(LARGE, "cpu_us", INLINE, at_most=1.05),
    Goal(MANY, "answers_per_s", INLINE, at_least=1.2),
    Goal(SLOW, "answers_per_s", INLINE, at_least=0.95),
    Goal(LONE, "p50_ms", PINNED, at_most=1.15),
)
#: Bounds of a start with three models: seconds until ready, and MiB more than inline without a spare.
READY_S, MORE_MIB = 6.0, 250.0


@dataclass(frozen=True)
class Start:
    """One start: seconds until ready, and MiB of memory of all processes (PSS) once idle."""

    ready_s: float
    memory_mib: float


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of bursts in turn (default 9)")
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds of a burst (default 1.5)")
    parser.add_argument("--starts", type=int, default=5, help="starts of each kind in turn (default 5)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that running services are stopped too
    with some_models(*THREE) as weights:
        starts = in_turn({name: partial(_start, CONTENDERS[name], str(weights)) for name in STARTED}, options.starts)
        bursts = _load(str(weights), options.rounds, options.seconds)
    goals = judge(starts, bursts)
    for line in (*start_table(starts), "", *burst_table(bursts), ""):
        print(line)
    for text, met in goals.items():
        print(f"{text}: {verdict(met)}")
    write_record("processes", seconds=options.seconds, goals=goals, starts=starts, bursts=bursts)


def _start(contender: Contender, weights: str) -> Start:
    with contender.start(weights_dir=weights) as service:
        return Start(service.ready_s, service.memory_mib())


def _load(weights: str, rounds: int, seconds: float) -> dict[str, dict[str, list[Burst]]]:
    """The bursts of all cases, by contender."""
    with ExitStack() as stack:
        services = {name: stack.enter_context(CONTENDERS[name].start(weights_dir=weights)) for name in LOADED}
        bursts = {}
        for case in CASES:
            measures = {
                name: partial(burst, service, case, seconds, CONTENDERS[name].client_core)
                for name, service in services.items()
            }
            bursts[case.name] = in_turn(measures, rounds)
            print(f"{case.name}: done", flush=True)
    return bursts


def ratios_to(other: str, metric: Metric, bursts: Mapping[str, list[Burst]]) -> list[float]:
    """The processes' figures over those of another contender, round by round."""
    ours, theirs = ([getattr(each, metric) for each in bursts[name]] for name in (PROCESSES, other))
    return ratios(ours, theirs)


def judge(starts: Mapping[str, list[Start]], bursts: Mapping[str, Mapping[str, list[Burst]]]) -> dict[str, bool]:
    """Whether each goal is met, by a text with its figure."""
    goals = dict(goal.reached(bursts[goal.case.name]) for goal in GOALS)
    ready_s = quartiles([start.ready_s for start in starts[PROCESSES]])[1]
    inline, alone = ([start.memory_mib for start in starts[name]] for name in (INLINE, NO_SPARE))
    more_mib = quartiles([b - a for a, b in zip(inline, alone, strict=True)])[1]
    goals[f"ready after {ready_s:.2f} s with three models, goal at most {READY_S:g}"] = ready_s <= READY_S
    goals[f"{more_mib:.0f} MiB more than inline, no spare, goal at most {MORE_MIB:g}"] = more_mib <= MORE_MIB
    return goals


def start_table(starts: Mapping[str, list[Start]]) -> list[str]:
    """Medians of the starts, with quartiles."""
    lines = ["| three models | s until ready | memory, MiB (PSS) |", "| --- | --- | --- |"]
    for name, each in starts.items():
        ready, memory = summary([start.ready_s for start in each], 2), summary([start.memory_mib for start in each], 0)
        lines.append(f"| {name} | {ready} | {memory} |")
    return lines


def burst_table(bursts: Mapping[str, Mapping[str, list[Burst]]]) -> list[str]:
    """Medians of the bursts, with quartiles, and the ratios of the processes to each contender."""
    lines = ["| | answers per s | processor time per answer, us | p50, ms |", "| --- | --- | --- | --- |"]
    for case, by_name in bursts.items():
        for name, each in by_name.items():
            figures = zip(*each, strict=True)
            shown = [summary(values, digits) for values, digits in zip(figures, (0, 0, 2), strict=True)]
            lines.append(f"| {case}: {name} | {' | '.join(shown)} |")
        for other in (INLINE, PINNED):
            shown = [summary(ratios_to(other, metric, by_name)) for metric in ("answers_per_s", "cpu_us", "p50_ms")]
            lines.append(f"| {case}: {PROCESSES} / {other} | {' | '.join(shown)} |")
    return lines


if __name__ == "__main__":
    main()
