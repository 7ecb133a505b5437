"""What balancing loses that does not know the replicas' queues: requests of 5 to 1,000 steps on several replicas.

Simulated. A real balancer knows connections at once, and predicted work as of the last time that it asked for it.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.capacity.model import Choose, Costs, Fleet, Kind, Replica, Shape, least_connections
from benchmarks.load import p50_p99
from benchmarks.open_loop import poisson

#: Steps of a request and their weights: the mix of ``benchmarks.mixed``.
MIX = {5: 60.0, 20: 25.0, 100: 12.0, 1000: 3.0}
REPLICAS, LOADS = 4, (0.5, 0.7, 0.85)
WARM_UP_S = 30.0
#: How old a balancer's knowledge of predicted work is where it asks every second.
OLD_S = 1.0


def at_random(replicas: Sequence[Replica], chance: random.Random) -> Replica:
    """Any replica."""
    return chance.choice(replicas)


def two_choices(replicas: Sequence[Replica], chance: random.Random) -> Replica:
    """Of two at random, the one with fewer requests that are not answered (Mitzenmacher 2001)."""
    return min(chance.sample(replicas, 2), key=lambda replica: replica.open)


def predicted_work(replicas: Sequence[Replica], chance: random.Random) -> Replica:
    """The replica with the least predicted work; any of several."""
    least = min(replica.work_s for replica in replicas)
    return chance.choice([replica for replica in replicas if replica.work_s <= least + 1e-9])


class OldWork:
    """The replica with the least predicted work as of the last whole ``OLD_S``."""

    def __init__(self) -> None:
        self._asked_at, self._known = -1.0, [0.0]

    def __call__(self, replicas: Sequence[Replica], chance: random.Random) -> Replica:
        """The choice of one request."""
        now = replicas[0].clock.now
        if now >= self._asked_at + OLD_S or self._asked_at < 0:
            self._asked_at, self._known = now - now % OLD_S, [replica.work_s for replica in replicas]
        least = min(self._known)
        return replicas[chance.choice([index for index, work_s in enumerate(self._known) if work_s <= least + 1e-9])]


def ways() -> dict[str, Choose]:
    """The ways to balance, by name."""
    return {
        "random": at_random,
        "two choices": two_choices,
        "least connections": least_connections,
        "predicted work": predicted_work,
        f"predicted work, {OLD_S:g} s old": OldWork(),
    }


@dataclass(frozen=True)
class Balanced:
    """One way at one load: p99 of each number of steps, and the mean of all requests' slowdown.

    Slowdown: the latency over that of the request in an idle replica. ``load`` is a share of what full ticks do.
    """

    way: str
    load: float
    p50_ms: dict[int, float]
    p99_ms: dict[int, float]
    slowdown: float


def compare(costs: Costs, shape: Shape, seconds: float, loads: Sequence[float] = LOADS) -> list[Balanced]:
    """All ways at all loads, each with the same arrivals; ``seconds`` of arrivals are measured."""
    return [balance(name, costs, shape, load, seconds) for load in loads for name in ways()]


def balance(way: str, costs: Costs, shape: Shape, load: float, seconds: float) -> Balanced:
    """One way at one load."""
    kinds = [Kind(steps=steps) for steps in MIX]
    mean_s = sum(weight * costs.work_s(kind) for weight, kind in zip(MIX.values(), kinds, strict=True)) / sum(
        MIX.values()
    )
    rate = load * REPLICAS * shape.core_count / mean_s
    arrivals = poisson(rate, WARM_UP_S + seconds, list(MIX.values()), 0)
    fleet = Fleet(costs, shape, REPLICAS, kinds, ways()[way], since_s=WARM_UP_S)
    latencies_ms = fleet.simulate(arrivals).latencies_ms
    alone_ms = [1000 * kind.steps * costs.tick(1) for kind in kinds]
    slowdowns = [each / alone for alone, own in zip(alone_ms, latencies_ms, strict=True) for each in own]
    p50s, p99s = zip(*(p50_p99(own) for own in latencies_ms), strict=True)
    return Balanced(way, load, dict(zip(MIX, p50s, strict=True)), dict(zip(MIX, p99s, strict=True)), fmean(slowdowns))


def table(found: Sequence[Balanced]) -> list[str]:
    """A line for each way and load, with the loss against predicted work."""
    lines = [
        f"| load | balanced by | {' | '.join(f'p99 of {steps:,} steps, s' for steps in MIX)} | mean slowdown |",
        f"| --- | --- | {'--- | ' * len(MIX)}--- |",
    ]
    for each in found:
        p99s = " | ".join(f"{each.p99_ms[steps] / 1000:.2f}" for steps in MIX)
        lines.append(f"| {each.load:.0%} | {each.way} | {p99s} | {each.slowdown:.2f} |")
    return lines


def by_way(found: Sequence[Balanced]) -> Mapping[str, list[Balanced]]:
    """The figures of each way, by load."""
    return {name: [each for each in found if each.way == name] for name in dict.fromkeys(each.way for each in found)}
