"""How close the service comes to the model itself: images a second over HTTP against the bare TorchScript loop.

The bare loop calls the loaded model at its best bucket and turns the result into bytes on the host, nothing else. For
one-shot models the service has one engine thread on one core, and the client the other core; for the DDPM the service
has both. Bare and served are measured in turn, several rounds; the ratio is the median of the rounds' own.

    python -m benchmarks.limit                   a table, and benchmarks/results/limit.json
"""

import argparse
import statistics
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.clients import closed_loop, last_core
from benchmarks.load import Outcome
from benchmarks.report import write_record
from benchmarks.server import running_service

#: How long a run counts. A round of the DDPM's connections takes most of a second, and all answer together: few of them
#: would make a figure of whole rounds.
SECONDS, SECONDS_OF_ROUNDS = 4.0, 20.0


@dataclass(frozen=True)
class Case:
    """One model and request, served for ``seconds``; ``cores`` are the service's, the client has the last one."""

    label: str
    model: str
    n: int
    connections: int
    cores: int
    seconds: float = SECONDS


CASES = (
    Case("quick-gan, n = 1, 1 core", "quick-gan", 1, 64, 1),
    Case("quick-gan, n = 16, 1 core", "quick-gan", 16, 8, 1),
    Case("vae, n = 1, 1 core", "vae", 1, 64, 1),
    Case("ddpm 10 steps, n = 4, 2 cores", "ddpm", 4, 16, 2, SECONDS_OF_ROUNDS),
)


@dataclass(frozen=True)
class Result:
    """Images a second, medians over the rounds, and the served p50 and p99 in milliseconds."""

    label: str
    bare: float
    served: float
    ratio: float
    p50_ms: float
    p99_ms: float
    rounds: list[tuple[float, float]]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds in turn (default 3)")
    rounds = parser.parse_args().rounds
    results = [measure(case, rounds) for case in CASES]
    for result in results:
        print(
            f"{result.label:32} bare {result.bare:8.0f}/s  served {result.served:8.0f}/s  ratio {result.ratio:.2f}"
            f"  p50 {result.p50_ms:.2f} ms  p99 {result.p99_ms:.2f} ms"
        )
    write_record("limit", results=results)


def measure(case: Case, rounds: int) -> Result:
    """Bare and served in turn."""
    pairs, outcomes = [], []
    for _ in range(rounds):
        bare = _bare(case)
        outcome = _served(case)
        outcomes.append(outcome)
        pairs.append((bare, case.n * outcome.answers_per_s))
    bare, served = (statistics.median(values) for values in zip(*pairs, strict=True))
    p50 = statistics.median(outcome.p50_ms for outcome in outcomes)
    p99 = statistics.median(outcome.p99_ms for outcome in outcomes)
    ratio = statistics.median(served / bare for bare, served in pairs)
    return Result(case.label, bare, served, ratio, p50, p99, pairs)


def _bare(case: Case) -> float:
    """Images a second of the bare loop, one process a core, each pinned to its own."""
    processes = [
        subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.bare", case.model, str(case.seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for core in range(case.cores)
    ]
    return sum(float(process.communicate()[0]) for process in processes)


def _served(case: Case) -> Outcome:
    last = last_core()
    cores = "0" if case.cores == 1 else f"0-{last}"
    with running_service(pin=cores, engine_threads=str(case.cores)) as port:
        outcome = closed_loop(port, f"/generate/{case.model}", {"n": case.n}, case.connections, case.seconds, last)
    if outcome.failures:
        raise RuntimeError(f"{case.label}: {outcome.failures} answers were not 200")
    return outcome


if __name__ == "__main__":
    main()
