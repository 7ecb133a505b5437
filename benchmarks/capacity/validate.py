"""The simulation against the service: the same load on both, a closed loop that saturates and open loops below that.

The closed loop is judged by its answers per second only: simulated clients in a closed loop go in step, and real ones
do not. Each open loop has several rounds, and the median of each figure is compared: a single moment in which another
program has the core is longer than most latencies. The first seconds do not count: making a connection costs more than
a request, and the backlog of that lasts a while.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median

from benchmarks.capacity.costs import Case
from benchmarks.capacity.model import Costs, Fleet
from benchmarks.clients import OpenLoad, closed_loop, open_loop
from benchmarks.load import p50_p99
from benchmarks.open_loop import LAG_LIMIT_MS, Arrival, Kind, poisson
from benchmarks.server import Service

#: Shares of the capacity, and how far the simulation may be off.
LEVELS = (0.3, 0.5, 0.7)
THROUGHPUT_WITHIN, P99_WITHIN = 0.15, 0.30
#: Connections of the closed loop that measures the capacity: none of those that measured costs.
CONNECTIONS = 32
WARM_UP_S, DRAIN_S = 3.0, 30.0


@dataclass(frozen=True)
class Figures:
    """What a load did: answers per second, and latencies."""

    answers_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Level:
    """One load, measured and simulated. ``load`` is a share of the capacity, None for the closed loop.

    ``lag_ms`` is the p99 of the client's own lag, in the warm-up too.
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
        near = abs(self.throughput_off) <= THROUGHPUT_WITHIN
        return near and (self.load is None or (abs(self.p99_off) <= P99_WITHIN and self.lag_ms <= LAG_LIMIT_MS))


def validate(service: Service, case: Case, costs: Costs, seconds: float, rounds: int) -> list[Level]:
    """The closed loop, and an open loop at each level; ``seconds`` of each round count."""
    saturated = saturation(service, case, costs, seconds)
    capacity = saturated.measured.answers_per_s
    done: list[list[Level]] = [[] for _ in LEVELS]
    for seed in range(rounds):
        for share, own in zip(LEVELS, done, strict=True):
            own.append(level(service, case, costs, share, share * capacity, seconds, seed))
    return [saturated, *(middle(own) for own in done)]


def middle(levels: Sequence[Level]) -> Level:
    """The median of each figure of several rounds."""
    measured, simulated = (
        Figures(*(median(getattr(each, field.name) for each in own) for field in fields(Figures)))
        for own in ([each.measured for each in levels], [each.simulated for each in levels])
    )
    return Level(levels[0].model, levels[0].load, measured, simulated, median(each.lag_ms for each in levels))


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


def level(service: Service, case: Case, costs: Costs, share: float, rate: float, seconds: float, seed: int) -> Level:
    """An open loop on both: the same requests at the same times."""
    kinds, ends_s = [Kind(case.model, 1, case.path, json.dumps(case.body))], WARM_UP_S + seconds
    load = OpenLoad(rate, ends_s, seed, DRAIN_S, warm_up_s=WARM_UP_S)
    outcome = open_loop(service.port, kinds, load, case.client_core)
    (answers,) = outcome.kinds
    if answers.ok.count < answers.sent or answers.ok.p50_ms is None or answers.ok.p99_ms is None:
        raise RuntimeError(f"{case.model}, {rate:.0f} requests/s: not all were answered: {answers}")
    per_s = answers.ok.count / (max(ends_s, outcome.last_answer_s) - WARM_UP_S)
    measured = Figures(per_s, answers.ok.p50_ms, answers.ok.p99_ms)
    simulated = opened(case, costs, rate, seconds, seed)
    return Level(case.model, share, measured, simulated, outcome.lag_p99_ms)


def opened(case: Case, costs: Costs, rate: float, seconds: float, seed: int) -> Figures:
    """The simulated open loop."""
    ends_s = WARM_UP_S + seconds
    fleet = Fleet(costs, case.shape, kinds=[case.kind], since_s=WARM_UP_S)
    outcome = fleet.simulate(poisson(rate, ends_s, [1], seed))
    latencies_ms = outcome.all_ms()
    return Figures(len(latencies_ms) / (max(ends_s, outcome.ended_s) - WARM_UP_S), *p50_p99(latencies_ms))


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
