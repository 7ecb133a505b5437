"""The simulation against the service: the same load on both, a closed loop that saturates and open loops below that."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.capacity.costs import Case
from benchmarks.capacity.model import Costs, Fleet, Outcome
from benchmarks.clients import OpenLoad, closed_loop, open_loop
from benchmarks.load import WARM_UP_S, p50_p99
from benchmarks.open_loop import LAG_LIMIT_MS, Arrival, Kind, poisson
from benchmarks.server import Service

#: Shares of the capacity, and how far the simulation may be off.
LEVELS = (0.3, 0.6, 0.85)
THROUGHPUT_WITHIN, P99_WITHIN = 0.15, 0.30
#: Connections of the closed loop that measures the capacity: none of those that measured costs.
CONNECTIONS = 32
DRAIN_S = 30.0


@dataclass(frozen=True)
class Figures:
    """What a load did: answers per second, and latencies."""

    answers_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Level:
    """One load, measured and simulated. ``load`` is a share of the capacity, None for the closed loop.

    ``lag_ms`` is the p99 of the client's own lag.
    """

    model: str
    load: float | None
    measured: Figures
    simulated: Figures
    lag_ms: float = 0.0

    @property
    def throughput_off(self) -> float:
        """Simulated answers per second over those measured, less one."""
        return self.simulated.answers_per_s / self.measured.answers_per_s - 1

    @property
    def p99_off(self) -> float:
        """Simulated p99 over that measured, less one."""
        return self.simulated.p99_ms / self.measured.p99_ms - 1

    @property
    def valid(self) -> bool:
        """Whether the simulation is near enough, and the client was not late."""
        near = abs(self.throughput_off) <= THROUGHPUT_WITHIN and abs(self.p99_off) <= P99_WITHIN
        return near and self.lag_ms <= LAG_LIMIT_MS


def validate(service: Service, case: Case, costs: Costs, seconds: float) -> list[Level]:
    """The closed loop, and an open loop of ``seconds`` at each level."""
    saturated = saturation(service, case, costs, seconds)
    capacity = saturated.measured.answers_per_s
    return [saturated, *(level(service, case, costs, load, load * capacity, seconds) for load in LEVELS)]


def saturation(service: Service, case: Case, costs: Costs, seconds: float) -> Level:
    """The closed loop on both."""
    outcome = closed_loop(service.port, case.path, case.body, CONNECTIONS, seconds, case.client_core)
    if outcome.failures:
        raise RuntimeError(f"{case.model}: {outcome.failures} responses were not 200")
    measured = Figures(1000 * CONNECTIONS / outcome.mean_ms, outcome.p50_ms, outcome.p99_ms)
    return Level(case.model, None, measured, closed(case, costs, CONNECTIONS, seconds))


def closed(case: Case, costs: Costs, connections: int, seconds: float) -> Figures:
    """The simulated closed loop."""
    ends_s = WARM_UP_S + seconds
    fleet = Fleet(costs, case.shape, kinds=[case.kind], think_s=0.0, since_s=WARM_UP_S, until_s=ends_s)
    outcome = fleet.simulate([Arrival(0.0, 0)] * connections)
    return Figures(outcome.answers_per_s, *p50_p99(outcome.all_ms()))


def level(service: Service, case: Case, costs: Costs, load: float, rate: float, seconds: float) -> Level:
    """An open loop on both: the same requests at the same times."""
    kinds = [Kind(case.model, 1, case.path, json.dumps(case.body))]
    outcome = open_loop(service.port, kinds, OpenLoad(rate, seconds, 0, DRAIN_S), case.client_core)
    (answers,) = outcome.kinds
    if answers.ok.count < answers.sent or answers.ok.p50_ms is None or answers.ok.p99_ms is None:
        raise RuntimeError(f"{case.model}: {answers.sent - answers.ok.count} of {answers.sent} requests failed")
    per_s = answers.ok.count / max(seconds, outcome.last_answer_s)
    measured = Figures(per_s, answers.ok.p50_ms, answers.ok.p99_ms)
    fleet = Fleet(costs, case.shape, kinds=[case.kind])
    return Level(
        case.model,
        load,
        measured,
        figures(fleet.simulate(poisson(rate, seconds, [1], 0)), seconds),
        outcome.lag_p99_ms,
    )


def figures(outcome: Outcome, seconds: float) -> Figures:
    """The figures of a simulation of ``seconds`` of arrivals."""
    return Figures(outcome.answered / max(seconds, outcome.ended_s), *p50_p99(outcome.all_ms()))


def table(levels: Sequence[Level]) -> list[str]:
    """Measured and simulated figures, a line for each level."""
    lines = [
        "| load | answers/s measured | simulated | off | p50 measured, ms | simulated | p99 measured, ms | simulated "
        "| off | within bounds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in levels:
        load = f"{CONNECTIONS} connections" if each.load is None else f"{each.load:.0%} of that"
        real, simulated = each.measured, each.simulated
        lines.append(
            f"| {each.model}, {load} | {real.answers_per_s:,.0f} | {simulated.answers_per_s:,.0f} "
            f"| {each.throughput_off:+.0%} | {real.p50_ms:,.1f} | {simulated.p50_ms:,.1f} "
            f"| {real.p99_ms:,.1f} | {simulated.p99_ms:,.1f} | {each.p99_off:+.0%} | {'yes' if each.valid else 'NO'} |"
        )
    return lines
