"""Capacity beyond one machine: a simulation that is driven by measured costs and compared with the service.

measured     what a request costs: closed loops with 1 to 64 connections on a service here; see ``costs``
validated    the same loads on the service and in the simulation; see ``validate``
simulated    what loads need, and ways to balance; see ``plan`` and ``balance``
assumed      what a GPU costs and how long a user thinks: the options

python -m benchmarks.capacity                     tables, docs/pictures/balance.png and benchmarks/results/capacity.json
python -m benchmarks.capacity --quick             a fraction of the length, nothing written
python -m benchmarks.capacity --costs FILE        with the costs of an earlier record: nothing measured or written
"""

import argparse
import json
import signal
import sys
from pathlib import Path

from benchmarks.capacity import balance, plan, plot, validate
from benchmarks.capacity.costs import MEASURED, QUICK, STEPS, TEXT, Case, Measured, measure
from benchmarks.capacity.plan import Assumed
from benchmarks.capacity.validate import Level
from benchmarks.clients import allow_connections
from benchmarks.machine import others_busy
from benchmarks.report import write_record
from benchmarks.server import service_process, some_models

#: Seconds and rounds of the loads that validate, by model, and seconds of the simulated balance.
VALIDATION_S, ROUNDS = {QUICK.model: 4.0, STEPS.model: 12.0}, 3
BALANCE_S = 120.0
QUICK_SHARE = 0.25


def main() -> None:
    """Measure, simulate and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the length, nothing written")
    parser.add_argument("--costs", type=Path, help="a record of this benchmark, whose costs are used")
    assumed = Assumed()
    parser.add_argument(
        "--gpu-least-ms", type=float, default=assumed.least_ms, help="assumed: least ms of a tick (default %(default)g)"
    )
    parser.add_argument(
        "--gpu-times",
        type=float,
        default=assumed.times,
        help="assumed: cores that a GPU replaces (default %(default)g)",
    )
    parser.add_argument(
        "--think-s",
        type=float,
        default=assumed.think_s,
        help="assumed: mean s until a user asks again (default %(default)g)",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the running service is stopped too
    allow_connections()
    assumed = Assumed(options.gpu_least_ms, options.gpu_times, options.think_s)
    share = QUICK_SHARE if options.quick else 1.0
    levels: list[Level] = []
    busy_before = 0.0 if options.costs else others_busy()
    if options.costs:
        measured = MEASURED.validate_python(json.loads(options.costs.read_text())["measured"])
    else:
        print(f"other programs use {busy_before:.0%} of the cores", flush=True)
        measured, levels = run(share)
        show("Validated: the same loads on the service and in the simulation", validate.table(levels))
    costs = {model: each.costs for model, each in measured.items()}
    needs = plan.plan(costs[QUICK.model], costs[TEXT.model], assumed)
    show(f"Simulated with measured costs of a CPU and assumed ones of a GPU and of users: {assumed}", plan.table(needs))
    found = balance.compare(costs[STEPS.model], STEPS.shape, share * BALANCE_S)
    show(f"Simulated: {balance.REPLICAS} replicas of {STEPS.model}", balance.table(found))
    if not (options.quick or options.costs):
        plot.draw(found)
        simulated = {"assumed": assumed, "needs": needs, "balance": found}
        write_record("capacity", others_busy=busy_before, measured=measured, validated=levels, **simulated)


def run(share: float) -> tuple[dict[str, Measured], list[Level]]:
    """The costs of all cases, and the loads that validate the simulation, on one service after another."""
    measured: dict[str, Measured] = {}
    levels: list[Level] = []
    for case in (QUICK, STEPS, TEXT):
        measured[case.model], own = run_case(case, share)
        levels += own
    return measured, levels


def run_case(case: Case, share: float) -> tuple[Measured, list[Level]]:
    """One case."""
    pin = "0" if case.pinned else None
    with (
        some_models(case.model) as weights,
        service_process(pin, weights_dir=str(weights), **case.settings()) as service,
    ):
        measured = measure(service, case, share)
        print(f"measured: {case.model}, {measured.costs}", flush=True)
        seconds = share * VALIDATION_S.get(case.model, 0.0)
        return measured, validate.validate(service, case, measured.costs, seconds, ROUNDS) if seconds else []


def show(title: str, lines: list[str]) -> None:
    """Print a table."""
    print("\n".join(["", title, "", *lines]), flush=True)


if __name__ == "__main__":
    main()
