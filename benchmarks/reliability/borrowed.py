"""R1, R2, R7 and R12: benches that are commands of their own, in the lengths that belong to this table."""

import os
from collections.abc import Mapping

from benchmarks import drain, fair, kill, overload
from benchmarks.attacks.watch import Demand
from benchmarks.kill_faults import VARIABLE as KILL_FAULT
from benchmarks.reliability.bench import Form

#: The fault of `benchmarks.kill` that its bench must notice here.
LOST = "lost"


def demands_of(goals: Mapping[str, bool]) -> list[Demand]:
    """Goals whose texts have their figures: 1 is one that was missed."""
    return [Demand(text, float(not met), 0) for text, met in goals.items()]


def kills(form: Form) -> list[Demand]:
    """Engines and an API process die under load."""
    signals = kill.plan(form.pick(6, 1), form.pick(3, 1))
    if form.planted:
        os.environ[KILL_FAULT] = LOST
        settings = {"request_timeout_s": str(kill.PLANTED_TIMEOUT_S)}
        outcomes = kill.measure_engines(signals, "benchmarks.kill_faults", settings).outcomes
        return [Demand("requests that were not answered rightly", sum(outcomes.values()) - outcomes["right"], 0)]
    return demands_of(kill.judge(kill.measure_engines(signals), kill.measure_apis()))


def drains(form: Form) -> list[Demand]:
    """The service stops under load, with one API process and with two in turn."""
    stops = [drain.stop_once(1 + number % 2, plant=form.planted) for number in range(form.pick(50, 3))]
    return demands_of(drain.judge(stops))


def fairness(form: Form) -> list[Demand]:
    """A quick model's p99 while a slow one is flooded."""
    with form.service("long-ticks", *fair.MODELS) as service:
        found = fair.measure(service.port, form.pick(3, 1))
    return [Demand("p99 of the quick model beside the flood, ms", found.p99_flooded_ms, found.bound_ms)]


def overloads(form: Form) -> list[Demand]:
    """Ten times the capacity, in an open loop."""
    case = overload.CASES[0]
    with form.planting("never-refuses") as (module, settings):
        found = overload.measure(case, form.pick(60, 8), 0, module, **settings)
    demands = []
    for figure in overload.FIGURES:
        value = figure.of([found])
        if figure.at_least > 0:
            demands.append(Demand(f"{figure.label}: what is missing of 1", 1 - value, 1 - figure.at_least))
        elif figure.at_most < float("inf"):
            demands.append(Demand(figure.label, value, figure.at_most))
    return demands
