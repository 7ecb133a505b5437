"""Overload: goodput, latency of rejections, and recovery with far more requests than can be served.

A saturating closed loop measures the capacity C of single pictures. Then an open loop sends 10 C to the DDPM for a
minute, and 2 C to the quick GAN, each request with a deadline of one second. The quick GAN has no goals: a rejection
costs about as much as a picture and shares the core with the model.

The service has the first core with one engine thread, the client the last core; every round has a fresh service.

    python -m benchmarks.overload                prints a table, writes benchmarks/results/overload.json
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from math import inf
from statistics import median

from benchmarks.clients import Body, OpenLoad, allow_connections, ask_once, closed_loop, last_core, open_loop
from benchmarks.open_loop import LAG_LIMIT_MS, Kind, Latencies, OpenOutcome
from benchmarks.report import verdict, write_record
from benchmarks.server import service_process

DEADLINE_MS = 1000
DRAIN_S = 20.0
CAPACITY_CONNECTIONS, CAPACITY_SECONDS = 32, 6.0
IDLE_REQUESTS = 9

#: Recovered: a latency within this multiple of the usual one, or this many ms. Waits at most RECOVERY_S seconds.
AS_BEFORE_TIMES, AS_BEFORE_MS, RECOVERY_S = 3.0, 20.0, 20.0


@dataclass(frozen=True)
class Case:
    """A request, the load in multiples of the capacity, and its duration in seconds."""

    label: str
    path: str
    body: dict[str, int | str]
    times: float
    seconds: float


CASES = (
    Case("ddpm, 20 steps, 10 x", "/generate/ddpm", {"steps": 20}, 10.0, 60.0),
    Case("quick-gan, 2 x", "/generate/quick-gan", {}, 2.0, 10.0),
)


@dataclass(frozen=True)
class Round:
    """One burst. Goodput is pictures in time over the capacity; accepted requests are those ok or expired.

    ``retry_after_share``: rejections with Retry-After; ``recovery_s``: from the end of sending until a request has its
    usual latency again, infinite for never.
    """

    capacity_per_s: float
    goodput_share: float
    pictures_p99_ms: float
    accepted_p99_ms: float
    expired_share: float
    refused_p99_ms: float
    retry_after_share: float
    growth_mib: float
    recovery_s: float
    outcome: OpenOutcome

    @property
    def failed_share(self) -> float:
        """Share of requests with another response, or with none."""
        return sum(kind.failed for kind in self.outcome.kinds) / max(1, sum(kind.sent for kind in self.outcome.kinds))

    @property
    def lag_p99_ms(self) -> float:
        """The client's lag."""
        return self.outcome.lag_p99_ms


@dataclass(frozen=True)
class Figure:
    """One line of the table: a field of the rounds, its aggregate, and its goal for the first case."""

    label: str
    field: str
    over: Callable[[Sequence[float]], float]
    at_least: float = -inf
    at_most: float = inf

    def of(self, rounds: Sequence[Round]) -> float:
        """The aggregate over the rounds."""
        return self.over([getattr(each, self.field) for each in rounds])

    def goal(self, rounds: Sequence[Round]) -> str:
        """The goal, if any, and whether it was met."""
        if (self.at_least, self.at_most) == (-inf, inf):
            return ""
        wanted = f"at most {self.at_most:g}" if self.at_least == -inf else f"at least {self.at_least:g}"
        return f"{wanted}: {verdict(self.at_least <= self.of(rounds) <= self.at_most)}"


# Times and shares are medians; what must never happen is of the worst round.
FIGURES = (
    Figure("in time, of capacity", "goodput_share", median, at_least=0.9),
    Figure("p99 of pictures, ms", "pictures_p99_ms", median),
    Figure("expired, of accepted", "expired_share", median),
    Figure("p99 of accepted, ms", "accepted_p99_ms", median, at_most=DEADLINE_MS),
    Figure("p99 of refusals, ms", "refused_p99_ms", median, at_most=50.0),
    Figure("refusals with Retry-After", "retry_after_share", min, at_least=1.0),
    Figure("failed, of all", "failed_share", max),
    Figure("growth of memory, MiB", "growth_mib", max, at_most=30.0),
    Figure("s until as before", "recovery_s", max, at_most=2.0),
    Figure("p99 of client's lag, ms", "lag_p99_ms", max, at_most=LAG_LIMIT_MS),
)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds over the cases (default 3)")
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the bursts' full length (default 1)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the running server is stopped too
    allow_connections()
    rounds: dict[str, list[Round]] = {case.label: [] for case in CASES}
    for number in range(options.rounds):
        for case in CASES:
            rounds[case.label].append(measure(case, options.share * case.seconds, number))
            print(f"round {number + 1}, {case.label}: {_answers(rounds[case.label][-1].outcome)}", flush=True)
    goals = {figure.label: figure.goal(rounds[CASES[0].label]) for figure in FIGURES}
    summary = {label: {figure.label: figure.of(each) for figure in FIGURES} for label, each in rounds.items()}
    print(f"\n{'':26}{''.join(f'{label:>22}' for label in summary)}   goal for the first")
    for label, goal in goals.items():
        print(f"{label:26}{''.join(f'{figures[label]:22.2f}' for figures in summary.values())}   {goal}")
    write_record("overload", deadline_ms=DEADLINE_MS, cases=CASES, summary=summary, goals=goals, rounds=rounds)


def measure(case: Case, seconds: float, seed: int, module: str = "service", **settings: str) -> Round:
    """One burst against a fresh service."""
    kinds = [Kind(case.label, 1, case.path, json.dumps({**case.body, "timeout_ms": DEADLINE_MS}))]
    with service_process("0", module, **({"engine_threads": "1"} | settings)) as service:
        saturated = closed_loop(service.port, case.path, case.body, CAPACITY_CONNECTIONS, CAPACITY_SECONDS, last_core())
        # Little's law, because the DDPM answers all connections together and few such waves fit into the time.
        capacity_per_s = 1000 * CAPACITY_CONNECTIONS / saturated.mean_ms
        load = OpenLoad(case.times * capacity_per_s, seconds, seed, DRAIN_S, DEADLINE_MS)
        connection = HTTPConnection("127.0.0.1", service.port, timeout=RECOVERY_S)
        usual_ms = median(ask_once(connection, case.path, case.body)[1] for _ in range(IDLE_REQUESTS))
        before_mib = service.memory_mib()
        outcome = open_loop(service.port, kinds, load, last_core())
        recovery_s = _recovery_s(
            service.port, case.path, case.body, max(AS_BEFORE_TIMES * usual_ms, AS_BEFORE_MS), outcome.sent_until
        )
        growth_mib = service.memory_mib() - before_mib
    return assess(capacity_per_s, outcome, growth_mib, recovery_s)


def assess(capacity_per_s: float, outcome: OpenOutcome, growth_mib: float, recovery_s: float) -> Round:
    """The figures of one burst."""
    (kind,) = outcome.kinds
    return Round(
        capacity_per_s,
        kind.in_time / outcome.sending_s / capacity_per_s,
        _p99_ms(kind.ok),
        _p99_ms(kind.accepted),
        kind.expired.count / max(1, kind.accepted.count),
        _p99_ms(kind.refused),
        kind.retry_after / max(1, kind.refused.count),
        growth_mib,
        recovery_s,
        outcome,
    )


def _p99_ms(answers: Latencies) -> float:
    """No response counts as infinite latency."""
    return inf if answers.p99_ms is None else answers.p99_ms


def _recovery_s(port: int, path: str, body: Body, within_ms: float, since: float) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=RECOVERY_S)
    while time.monotonic() < since + RECOVERY_S:
        status, latency_ms = ask_once(connection, path, body)
        if status == 200 and latency_ms <= within_ms:
            return time.monotonic() - since
    return inf


def _answers(outcome: OpenOutcome) -> str:
    (kind,) = outcome.kinds
    counts = f"{kind.sent} sent: {kind.ok.count} pictures, {kind.in_time} of them in time, {kind.refused.count} refused"
    counts += f", {kind.expired.count} expired, {kind.failed} failed"
    return f"{counts}{'   VOID: client late' if outcome.void else ''}"


if __name__ == "__main__":
    main()
