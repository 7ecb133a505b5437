"""Short and long requests mixed: batching by solver step compared with batching by request.

Single DDPM pictures with 5, 20, 100 and 1,000 steps arrive at random, at 70 % of the service's capacity, which a
saturating closed loop measures first; the backlog of a slower server grows for the whole run. In each round the same
arrivals go to

    step       the service: rows join and leave at any tick
    request    benchmarks/by_request.py: the service in one process, but a batch runs to its end before the next begins
    litserve   LitServe, batching by request (benchmarks/peers/litserve_ddpm.py)

The server runs on the first core with one torch thread and all its processes, the client on the last core. Queues and
timeouts are unbounded, so every request is answered. With GENSERVE_ENGINE=inline all contenders are one process.

    python -m benchmarks.mixed                   prints a table, writes benchmarks/results/mixed.json
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from statistics import median

from benchmarks.clients import OpenLoad, closed_loop, last_core, open_loop
from benchmarks.open_loop import Kind, KindOutcome, OpenOutcome
from benchmarks.peers.running import Peer, running_peer
from benchmarks.report import verdict, write_record
from benchmarks.scrape import rows_per_tick, scrape
from benchmarks.server import running_service

#: Share of requests in percent by number of steps: most requests are short, most of the work is in long ones.
MIX = {5: 60, 20: 25, 100: 12, 1000: 3}
SHORTEST = f"{min(MIX)} steps"
STEPS_A_REQUEST = sum(steps * share for steps, share in MIX.items()) / sum(MIX.values())

LOAD = 0.7
DRAIN_S = 80.0
CAPACITY_STEPS, CAPACITY_CONNECTIONS, CAPACITY_SECONDS = 20, 32, 8.0

#: Goals: how many times lower the p99 of the shortest requests is, and the least ratio of throughputs.
GOAL_P99, GOAL_THROUGHPUT = 10.0, 0.99


@dataclass(frozen=True)
class Contender:
    """A server to start, the path of its requests, and whether it has metrics of its ticks."""

    start: Callable[[], AbstractContextManager[int]]
    path: str = "/generate/ddpm"
    measured: bool = True

    @property
    def kinds(self) -> list[Kind]:
        """The requests of the mix."""
        return [Kind(f"{steps} steps", share, self.path, json.dumps({"steps": steps})) for steps, share in MIX.items()]


#: Rows in a batch: what the service chooses for this model.
MOST_ROWS = 16


def _service(module: str) -> AbstractContextManager[int]:
    unbounded = {"max_queue_ms": "1e9", "client_share": "1", "request_timeout_s": "1e6"}
    return running_service("0", module, engine_threads="1", max_bucket=str(MOST_ROWS), **unbounded)


LITSERVE = Peer("litserve", ("-m", "benchmarks.peers.litserve_ddpm", str(MOST_ROWS)))

CONTENDERS = {
    "step": Contender(lambda: _service("service")),
    "request": Contender(lambda: _service("benchmarks.by_request")),
    "litserve": Contender(lambda: running_peer(LITSERVE, "0", 1, "alike"), path="/generate", measured=False),
}


def installed() -> dict[str, Contender]:
    """The contenders that are installed."""
    if LITSERVE.installed:
        return CONTENDERS
    print("LitServe is not installed: left out")
    return {name: contender for name, contender in CONTENDERS.items() if name != "litserve"}


@dataclass(frozen=True)
class Round:
    """One run: its outcome, row-steps per second until the last response, and mean rows per forward pass."""

    outcome: OpenOutcome
    row_steps_per_s: float
    rows_per_tick: float | None


@dataclass(frozen=True)
class Summary:
    """Medians over the rounds; latencies by kind. ``occupancy`` is rows per forward pass over ``MOST_ROWS``."""

    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    row_steps_per_s: float
    rows_per_tick: float | None
    occupancy: float | None
    unanswered: int
    void_rounds: int


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all servers (default 3)")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of arrivals per run (default 60)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the running server is stopped too
    contenders, capacity = installed(), _capacity()
    rate = LOAD * capacity / STEPS_A_REQUEST
    print(f"capacity {capacity:.0f} row-steps/s; {rate:.1f} requests/s of {STEPS_A_REQUEST:.1f} steps on average")
    rounds: dict[str, list[Round]] = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name, contender in contenders.items():
            rounds[name].append(measure(contender, OpenLoad(rate, options.seconds, seed=number, drain_s=DRAIN_S)))
            print(f"round {number + 1}, {name}: {_line(summarise(rounds[name][-1:]))}", flush=True)
    summaries = {name: summarise(each) for name, each in rounds.items()}
    goals = judge(summaries)
    _print(summaries, goals)
    write_record(
        "mixed",
        mix_percent=MIX,
        load=LOAD,
        sending_s=options.seconds,
        capacity_row_steps_per_s=capacity,
        requests_per_s=rate,
        padding_rows="none: a forward pass has as many rows as are ready",
        summaries=summaries,
        goals=goals,
        rounds=rounds,
    )


def _capacity() -> float:
    """Row-steps per second of the saturated service."""
    step = CONTENDERS["step"]
    with step.start() as port:
        body = {"steps": CAPACITY_STEPS}
        outcome = closed_loop(port, step.path, body, CAPACITY_CONNECTIONS, CAPACITY_SECONDS, last_core())
    return CAPACITY_STEPS * outcome.answers_per_s


def measure(contender: Contender, load: OpenLoad) -> Round:
    """One run on a fresh server."""
    with contender.start() as port:
        before = scrape(port, "ddpm") if contender.measured else None
        outcome = open_loop(port, contender.kinds, load, last_core())
        rows = rows_per_tick(before, scrape(port, "ddpm")) if before else None
    return Round(outcome, row_steps(outcome.kinds) / outcome.last_answer_s, rows)


def row_steps(kinds: Sequence[KindOutcome]) -> int:
    """Steps of all pictures received; ``kinds`` in the order of the mix."""
    return sum(steps * kind.ok.count for steps, kind in zip(MIX, kinds, strict=True))


def summarise(rounds: Sequence[Round]) -> Summary:
    """Medians over the rounds, and the number of requests without a picture."""
    rows = [each.rows_per_tick for each in rounds if each.rows_per_tick is not None]
    by_kind = list(zip(*(each.outcome.kinds for each in rounds), strict=True))
    return Summary(
        {kinds[0].kind: median(_or_inf(kind.ok.p50_ms) for kind in kinds) for kinds in by_kind},
        {kinds[0].kind: median(_or_inf(kind.ok.p99_ms) for kind in kinds) for kinds in by_kind},
        median(each.row_steps_per_s for each in rounds),
        median(rows) if rows else None,
        median(rows) / MOST_ROWS if rows else None,
        sum(kind.sent - kind.ok.count for kinds in by_kind for kind in kinds),
        sum(each.outcome.void for each in rounds),
    )


def judge(summaries: Mapping[str, Summary]) -> dict[str, bool]:
    """Whether each goal was met, by a text with its figure."""
    step, goals = summaries["step"], {}
    for name, other in summaries.items():
        if other is step:
            continue
        times = other.p99_ms[SHORTEST] / step.p99_ms[SHORTEST]
        share = step.row_steps_per_s / other.row_steps_per_s
        goals[f"p99 of {SHORTEST} {times:.1f} x lower than {name}'s, goal {GOAL_P99:g} x"] = times >= GOAL_P99
        goals[f"throughput {share:.2f} of {name}'s, goal no lower"] = share >= GOAL_THROUGHPUT
    return goals


def _or_inf(latency_ms: float | None) -> float:
    """A missing response counts as infinite latency."""
    return inf if latency_ms is None else latency_ms


def _line(summary: Summary) -> str:
    times = "".join(f"{p50:8.0f}{summary.p99_ms[kind]:8.0f}" for kind, p50 in summary.p50_ms.items())
    rows = (
        "       -     -" if summary.rows_per_tick is None else f"{summary.rows_per_tick:8.1f}{summary.occupancy:6.2f}"
    )
    bad = f"   {summary.unanswered} without a picture" if summary.unanswered else ""
    return f"{times}{summary.row_steps_per_s:8.0f}{rows}{bad}{'   VOID: client late' if summary.void_rounds else ''}"


def _print(summaries: Mapping[str, Summary], goals: Mapping[str, bool]) -> None:
    print(f"\n{'':10}{''.join(f'{steps:>10} steps' for steps in MIX)}{'row-':>8}{'rows':>8}{'of':>6}")
    print(f"{'':10}{len(MIX) * '  p50 ms  p99 ms'}{'steps/s':>8}{'a tick':>8}{'most':>6}")
    for name, summary in summaries.items():
        print(f"{name:10}{_line(summary)}")
    for goal, met in goals.items():
        print(f"{goal}: {verdict(met)}")


if __name__ == "__main__":
    main()
