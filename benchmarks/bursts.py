"""Short bursts of load on services that run side by side, in turn, and the ratios of what they did.

A change of a few percent is smaller than what a shared machine does by itself within a minute. So the services are
asked within seconds of each other, and the result is the median of the ratios round by round, with its quartiles.
Processor time per answer is the steadier figure: it is that of all processes of a service, and of no other program.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from benchmarks.clients import Body, closed_loop
from benchmarks.server import Service

Figures = TypeVar("Figures")


class Case(NamedTuple):
    """One kind of load: ``connections`` clients in a closed loop. Its bursts take ``length`` times as long as usual."""

    name: str
    path: str
    body: Body
    connections: int
    length: float = 1.0


class Burst(NamedTuple):
    """What one burst measured: answers per second, processor microseconds of the service per answer, and the p50."""

    answers_per_s: float
    cpu_us: float
    p50_ms: float


def burst(service: Service, case: Case, seconds: float, core: int | None = None) -> Burst:
    """Load a service for ``seconds`` times the case's length; the client is pinned to ``core`` if one is given."""
    before_s = service.cpu_s()
    outcome = closed_loop(service.port, case.path, case.body, case.connections, case.length * seconds, core)
    if outcome.failures:
        raise RuntimeError(f"{case.name}: {outcome.failures} responses were not 200")
    cpu_us = 1e6 * (service.cpu_s() - before_s) / outcome.answers
    # Little's law: where all connections are answered together, a burst counts few, whole rounds of answers.
    return Burst(1000 * case.connections / outcome.mean_ms, cpu_us, outcome.p50_ms)


def in_turn(measures: Mapping[str, Callable[[], Figures]], rounds: int) -> dict[str, list[Figures]]:
    """The figures of ``rounds`` rounds of each measure, every second one backwards; one more at first warms all up."""
    figures: dict[str, list[Figures]] = {name: [] for name in measures}
    for each in range(rounds + 1):
        for name in list(measures)[:: 1 if each % 2 else -1]:
            measured = measures[name]()
            if each:
                figures[name].append(measured)
    return figures


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, round by round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def quartiles(figures: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile, of one figure or more."""
    if len(figures) == 1:
        return figures[0], figures[0], figures[0]
    low, middle, high = statistics.quantiles(figures, n=4, method="inclusive")
    return low, middle, high


def summary(figures: Sequence[float], digits: int = 3) -> str:
    """The median, and the quartiles in brackets."""
    low, middle, high = quartiles(figures)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
