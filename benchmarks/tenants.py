"""Two API keys share a service: what the flood of one leaves of the other's goodput.

The good key sends an open loop at a part of the capacity, each request with a deadline, first alone and then while the
other key sends ten times the capacity. Goodput is its pictures in time per second. Once the flooding key has no rate,
so that only the order of service protects the other; once it has a rate of half the device.

The service has the first core with one engine thread, the clients the last core; every round has a fresh service.

    python -m benchmarks.tenants                 prints a table, writes benchmarks/results/tenants.json
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.clients import OpenLoad, allow_connections, closed_loop, last_core, open_loop
from benchmarks.open_loop import Kind, OpenOutcome
from benchmarks.report import verdict, write_record
from benchmarks.server import service_process
from service.access.keys import line_of

GOOD, FLOOD = "the-good-key", "the-flooding-key"
CAPACITY_CONNECTIONS, CAPACITY_SECONDS, DRAIN_S = 32, 6.0, 10.0
#: The loads, in multiples of the capacity.
GOOD_TIMES, FLOOD_TIMES = 0.3, 10.0
#: The flooding key's rate in device milliseconds per second.
RATES: Mapping[str, float | None] = {"no rate": None, "500 ms/s": 500.0}
PATH, BODY = "/generate/ddpm", {"steps": 20}
GOAL = 0.9


@dataclass(frozen=True)
class Round:
    """Pictures in time per second of the good key, alone and beside the flood; and what became of the flood."""

    capacity_per_s: float
    alone_per_s: float
    beside_per_s: float
    p99_alone_ms: float | None
    p99_beside_ms: float | None
    flood: OpenOutcome

    @property
    def kept(self) -> float:
        """The part of the good key's goodput that the flood leaves."""
        return self.beside_per_s / self.alone_per_s


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each load (default 20)")
    parser.add_argument("--deadline-ms", type=int, default=2000, help="of the good key's requests (default 2000)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the running server is stopped too
    allow_connections()
    rounds: dict[str, list[Round]] = {label: [] for label in RATES}
    for number in range(options.rounds):
        for label, rate in RATES.items():
            rounds[label].append(measure(rate, options.seconds, options.deadline_ms, number))
            print(f"round {number + 1}, {label}: {_told(rounds[label][-1])}", flush=True)
    goals = {label: goal(each) for label, each in rounds.items()}
    for label, text in goals.items():
        print(f"{label}: {text}")
    write_record(
        "tenants", deadline_ms=options.deadline_ms, loads=(GOOD_TIMES, FLOOD_TIMES), goals=goals, rounds=rounds
    )


def goal(rounds: Sequence[Round]) -> str:
    """The median part of the goodput that is left, and whether that is enough."""
    kept = median(each.kept for each in rounds)
    return f"{kept:.3f} of the goodput left, at least {GOAL:g}: {verdict(kept >= GOAL)}"


def measure(rate: float | None, seconds: float, deadline_ms: int, seed: int) -> Round:
    """One round with a fresh service."""
    with _keys(rate) as keys, service_process("0", engine_threads="1", api_keys_file=str(keys)) as service:
        core, port = last_core(), service.port
        saturated = closed_loop(port, PATH, BODY, CAPACITY_CONNECTIONS, CAPACITY_SECONDS, core, GOOD)
        capacity = 1000 * CAPACITY_CONNECTIONS / saturated.mean_ms
        wanted = Kind("good", 1, PATH, json.dumps({**BODY, "timeout_ms": deadline_ms}))
        good = OpenLoad(GOOD_TIMES * capacity, seconds, seed, DRAIN_S, deadline_ms)
        alone = open_loop(port, [wanted], good, core, GOOD)
        with ThreadPoolExecutor(1) as pool:
            load = OpenLoad(FLOOD_TIMES * capacity, seconds, seed + 1, DRAIN_S)
            flood = pool.submit(open_loop, port, [Kind("flood", 1, PATH, json.dumps(BODY))], load, core, FLOOD)
            beside = open_loop(port, [wanted], good, core, GOOD)
            return assess(capacity, alone, beside, flood.result())


def assess(capacity_per_s: float, alone: OpenOutcome, beside: OpenOutcome, flood: OpenOutcome) -> Round:
    """The figures of one round."""
    (one,), (two,) = alone.kinds, beside.kinds
    return Round(
        capacity_per_s,
        one.in_time / alone.sending_s,
        two.in_time / beside.sending_s,
        one.ok.p99_ms,
        two.ok.p99_ms,
        flood,
    )


@contextmanager
def _keys(rate: float | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="genserve-keys-") as scratch:
        path = Path(scratch, "keys.toml")
        path.write_text("\n".join([line_of("good", GOOD, ["generate"]), line_of("flood", FLOOD, ["generate"], rate)]))
        yield path


def _told(found: Round) -> str:
    (kind,) = found.flood.kinds
    flood = f"the flood: {kind.sent} sent, {kind.ok.count} answered, {kind.refused.count} refused, {kind.failed} failed"
    latency = f"p99 {found.p99_alone_ms or 0:.0f} and {found.p99_beside_ms or 0:.0f} ms"
    return f"{found.alone_per_s:.1f} pictures/s alone, {found.beside_per_s:.1f} beside, {latency}; {flood}"


if __name__ == "__main__":
    main()
