"""The promises of docs/RELIABILITY.md: for each demand the figure, its limit, and whether it is met.

    python -m benchmarks.reliability                  all of them, in full length; see docs/RELIABILITY.md for how long
    python -m benchmarks.reliability --only R3,R9     some of them
    python -m benchmarks.reliability --quick          short forms, for a look at what works; no record
    python -m benchmarks.reliability --plant leak     a fault in the service, in the short form: is it noticed?

Each demand has a record of its own, which says how much of the machine other programs used when it began.

The exit code is 0 if all demands are met; with --plant, if the fault was noticed.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks.attacks.watch import Demand
from benchmarks.clients import allow_connections
from benchmarks.machine import others_busy
from benchmarks.reliability import (
    access,
    alone,
    borrowed,
    disconnects,
    fuzz,
    malformed,
    memory,
    poison,
    series,
    slow_clients,
    start,
    storm,
)
from benchmarks.reliability.bench import Bench, Form, NotRun, all_met, elsewhere, lines
from benchmarks.reliability.faults import FAULTS
from benchmarks.report import write_record

QUICK_MINUTES = 1.5

BENCHES: dict[str, Bench] = {
    "R1": Bench("ten times the load that can be served", borrowed.overloads, "never-refuses"),
    "R1s": Bench("a storm of retries", storm.measure),
    "R2": Bench("processes that die", borrowed.kills, borrowed.LOST),
    "R3": Bench("random requests and random bytes", fuzz.measure, "raise"),
    "R4": Bench("malformed requests", malformed.measure, "echo"),
    "R5": Bench("growth of memory, descriptors and threads", memory.measure, "leak"),
    "R6": Bench("clients that disconnect", disconnects.measure, "deaf"),
    "R7": Bench("stops under load", borrowed.drains, "no-drain"),
    "R8": Bench("faulty weights", elsewhere("tests/service/models/test_faults.py, in `make test`")),
    "R9": Bench("slow senders, slow readers and endless heads", slow_clients.measure, "patient"),
    "R10": Bench("poisoned pictures in a batch", poison.measure, "one-for-all"),
    "R11": Bench("a seed's picture alone and in batches", alone.measure, "mix-up"),
    "R12": Bench("a quick model beside a flooded one", borrowed.fairness, "long-ticks"),
    "R13": Bench("start of the containers", start.measure),
    "R14": Bench("series of the metrics after abuse", series.measure, "labels"),
    "R15": Bench("ways around the keys", access.measure, "open"),
}


def main() -> int:
    """Measure, report, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short forms, and no record")
    parser.add_argument("--only", default="", help=f"some of {','.join(BENCHES)}")
    parser.add_argument("--minutes", type=float, help="length of R5 (default 10, and 1.5 in the short form)")
    parser.add_argument("--plant", choices=sorted(planted_faults()), help="a fault, which has to be noticed; no record")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the running service is stopped too
    allow_connections()
    if options.plant:
        return plant(options.plant)
    names = [name for name in options.only.split(",") if name] or [*BENCHES]
    if unknown := {*names} - {*BENCHES}:
        parser.error(f"no such demand: {', '.join(sorted(unknown))}")
    form = Form(options.quick, minutes=options.minutes or (QUICK_MINUTES if options.quick else 10.0))
    results = [found for name in names if (found := run(name, form)) is not None]
    return 0 if all(all_met(demands) for demands in results) else 1


def planted_faults() -> Mapping[str, str]:
    """The bench that must notice each fault."""
    return {bench.fault: name for name, bench in BENCHES.items() if bench.fault}


def run(name: str, form: Form) -> Sequence[Demand] | None:
    """Run one bench, print its demands and record those of the full form; None if it cannot run here."""
    busy, began = others_busy(), time.monotonic()
    print(f"{name}: {BENCHES[name].text}", flush=True)
    try:
        demands = BENCHES[name].measure(form)
    except NotRun as reason:
        print(f"{name:6}not run: {reason}", flush=True)
        return None
    seconds = round(time.monotonic() - began)
    print("\n".join(lines(name, demands)), f"\n{name:6}took {seconds} s", flush=True)
    if not form.quick:
        write_record(f"reliability/{name}", others_busy=busy, seconds=seconds, demands=demands)
    return demands


def plant(fault: str) -> int:
    """Whether the bench of a fault notices it: 0 if so, as an exit code."""
    demands = run(planted_faults()[fault], Form(quick=True, planted=True, minutes=QUICK_MINUTES))
    noticed = demands is not None and not all_met(demands)
    text = FAULTS[fault].text if fault in FAULTS else fault
    print(f"the planted fault ({text}) was {'noticed' if noticed else 'NOT NOTICED'}")
    return 0 if noticed else 1


if __name__ == "__main__":
    sys.exit(main())
