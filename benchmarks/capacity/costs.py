"""What a service costs, measured on a running one: processor time of its processes, by how many requests are open.

Processor time, not wall time: it is the steadier figure, and the simulation itself shares the cores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pydantic import TypeAdapter

from benchmarks.capacity.model import Costs, Kind, Shape
from benchmarks.clients import closed_loop, last_core
from benchmarks.process_tree import cpu_s_by_role
from benchmarks.scrape import scrape
from benchmarks.server import UNBOUNDED, Service


@dataclass(frozen=True)
class Case:
    """A model in a replica of some shape: with one core it has the first, and its client the last."""

    model: str
    kind: Kind
    body: Mapping[str, int] = field(default_factory=dict)
    shape: Shape = field(default_factory=Shape)
    #: Connections of the closed loops that measure costs, in ascending order, from 1 on, and seconds of each.
    connections: Sequence[int] = (1, 4, 16, 64)
    seconds: float = 1.5

    @property
    def path(self) -> str:
        """Where its requests go."""
        return f"/generate/{self.model}"

    @property
    def pinned(self) -> bool:
        """Whether the service has one core, and the client another."""
        return self.shape.cores == 1

    @property
    def client_core(self) -> int | None:
        """The core of the client, None for any."""
        return last_core() if self.pinned else None

    def settings(self) -> dict[str, str]:
        """Those of the service: nothing is refused, and no spare engine loads meanwhile."""
        own = {"engine_threads": str(self.shape.threads), "api_servers": str(self.shape.apis)}
        return UNBOUNDED | own | {"engine": "processes", "spare_engine": "false"}


QUICK = Case("quick-gan", Kind(), shape=Shape(cores=1))
STEPS = Case("ddpm", Kind(steps=20), {"steps": 20}, Shape(threads=2, cores=2), (1, 4, 16, 48), 3.0)
TEXT = Case("emoji", Kind(rows=2, steps=20), {"steps": 20}, Shape(threads=2, cores=2), (1, 4, 16), 5.0)


class Sample(NamedTuple):
    """What a closed loop of some connections took: processor seconds, ticks and their rows, of so many answers."""

    connections: int
    answers: int
    api_s: float
    engine_s: float
    ticks: float
    rows: float
    answers_per_s: float
    p50_ms: float

    @property
    def rows_per_tick(self) -> float:
        """Mean rows of a tick."""
        return self.rows / self.ticks


@dataclass(frozen=True)
class Measured:
    """The costs of a case, and the samples that they are from."""

    costs: Costs
    samples: list[Sample]


MEASURED = TypeAdapter(dict[str, Measured])


def measure(service: Service, case: Case, share: float = 1.0) -> Measured:
    """The costs of a running service, from a closed loop for each number of connections; ``share`` of its length."""
    samples = [sample(service, case, connections, share * case.seconds) for connections in case.connections]
    return Measured(costs_of(samples, case.kind), samples)


def sample(service: Service, case: Case, connections: int, seconds: float) -> Sample:
    """One closed loop. Raises RuntimeError unless all answers are 200s."""
    before, cpu_before = scrape(service.port, case.model), cpu_s_by_role(service.pid)
    outcome = closed_loop(service.port, case.path, case.body, connections, seconds, case.client_core)
    after, cpu_after = scrape(service.port, case.model), cpu_s_by_role(service.pid)
    if outcome.failures:
        raise RuntimeError(f"{case.model}: {outcome.failures} responses were not 200")
    api_s, engine_s = (cpu_after[role] - cpu_before[role] for role in ("api", "engine"))
    rows, ticks = (
        after[f"genserve_tick_rows_{part}"] - before[f"genserve_tick_rows_{part}"] for part in ("sum", "count")
    )
    # Little's law: where all connections are answered together, a loop counts few, whole rounds of answers.
    answers_per_s = 1000 * connections / outcome.mean_ms
    return Sample(connections, outcome.answers, api_s, engine_s, ticks, rows, answers_per_s, outcome.p50_ms)


def costs_of(samples: Sequence[Sample], kind: Kind) -> Costs:
    """The costs that explain ``samples``, of which the first has one connection and the last saturates the service.

    An API process has two turns for a lone request. With many requests it has two for each tick, so that those which a
    tick answers share their costs. The bucket is the power of two in which the rows of full ticks fit.
    """
    lone, many = samples[0], samples[-1]
    lone_s, many_s = (each.api_s / each.answers for each in (lone, many))
    turns = min(2.0, 2 * many.ticks / many.answers)
    turn_s = max(0.0, (lone_s - many_s) / (2 - turns)) if turns < 2 else 0.0
    tick_s = {each.rows_per_tick: each.engine_s / each.ticks for each in samples}
    bucket = 1 << max(0, math.ceil(math.log2(many.rows_per_tick)))
    costs = Costs(tick_s, bucket, turn_s, max(0.0, lone_s - 2 * turn_s))
    return replace(costs, transit_s=max(0.0, lone.p50_ms / 1000 - lone_s - kind.steps * costs.tick(kind.rows)))
