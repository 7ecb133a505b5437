"""Latency of one picture over HTTP from an idle service: one connection, one request at a time.

python -m benchmarks.latency                 prints a table, writes benchmarks/results/latency.json
python -m benchmarks.latency --rounds 7
"""

import argparse
import statistics
from dataclasses import dataclass
from http.client import HTTPConnection

from benchmarks.clients import ask_once
from benchmarks.report import write_record
from benchmarks.server import running_service


@dataclass(frozen=True)
class Case:
    """One kind of request, and how many a round sends."""

    label: str
    model: str
    body: dict[str, int | str]
    requests: int


CASES = (
    Case("vae", "vae", {}, 50),
    Case("quick-gan", "quick-gan", {}, 50),
    Case("ddpm, 20 steps", "ddpm", {"steps": 20}, 10),
    Case("ddpm, 1,000 steps", "ddpm", {"steps": 1000, "solver": "ddpm"}, 1),
)


@dataclass(frozen=True)
class Result:
    """Milliseconds per picture: median, minimum and maximum of the rounds' medians."""

    label: str
    median_ms: float
    least_ms: float
    greatest_ms: float


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all cases (default 5)")
    rounds = parser.parse_args().rounds
    with running_service() as port:
        results = measure(HTTPConnection("127.0.0.1", port, timeout=120), rounds)
    for result in results:
        print(f"{result.label:18} {result.median_ms:9.2f} ms   ({result.least_ms:.2f} to {result.greatest_ms:.2f})")
    write_record("latency", rounds=rounds, results=results)


def measure(connection: HTTPConnection, rounds: int) -> list[Result]:
    """Measure all cases ``rounds`` times, after one round that is not counted."""
    medians: dict[str, list[float]] = {case.label: [] for case in CASES}
    for number in range(rounds + 1):
        for case in CASES:
            median = statistics.median(_request_ms(connection, case) for _ in range(case.requests))
            if number:
                medians[case.label].append(median)
    return [Result(label, statistics.median(values), min(values), max(values)) for label, values in medians.items()]


def _request_ms(connection: HTTPConnection, case: Case) -> float:
    status, latency_ms = ask_once(connection, f"/generate/{case.model}", case.body)
    if status != 200:
        raise RuntimeError(f"{case.label}: status {status}")
    return latency_ms


if __name__ == "__main__":
    main()
