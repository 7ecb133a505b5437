"""The overhead of serving: images per second over HTTP compared with the bare TorchScript loop.

The bare loop only computes the model at its best bucket and converts the results to bytes on the host, with the model
as returned by ``torch.jit.load`` and as prepared by the service. For one-shot models the service has one engine thread
on one core and the client the other core; for the DDPM the service has both. Loops and service alternate over several
rounds; ratios are medians of the ratios per round.

    python -m benchmarks.limit                   prints a table, writes benchmarks/results/limit.json
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

#: Measured seconds. All connections of the DDPM are answered together about once per second, so a short run would count
#: few, whole rounds.
SECONDS, SECONDS_OF_ROUNDS = 4.0, 20.0


@dataclass(frozen=True)
class Case:
    """A model and request, served for ``seconds`` on ``cores`` cores; the client has the last core."""

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
    """Images per second, medians over the rounds, and p50 and p99 of the service in milliseconds.

    Each of ``rounds`` has the loop as loaded, the loop as prepared, and the service.
    """

    label: str
    loaded: float
    bare: float
    served: float
    ratio_to_loaded: float
    ratio: float
    p50_ms: float
    p99_ms: float
    rounds: list[tuple[float, float, float]]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    rounds = parser.parse_args().rounds
    results = [measure(case, rounds) for case in CASES]
    for result in results:
        print(
            f"{result.label:30} as loaded {result.loaded:6.0f}/s  prepared {result.bare:6.0f}/s"
            f"  served {result.served:6.0f}/s, {result.ratio_to_loaded:.2f} and {result.ratio:.2f} of them"
            f"  p50 {result.p50_ms:.2f} ms  p99 {result.p99_ms:.2f} ms"
        )
    write_record("limit", results=results)


def measure(case: Case, rounds: int) -> Result:
    """Measure both loops and the service, alternating."""
    speeds, outcomes = [], []
    for _ in range(rounds):
        loaded, bare = _bare(case, "loaded"), _bare(case, "served")
        outcomes.append(outcome := _served(case))
        speeds.append((loaded, bare, case.n * outcome.answers_per_s))
    loaded, bare, served = (statistics.median(each) for each in zip(*speeds, strict=True))
    return Result(
        case.label,
        loaded,
        bare,
        served,
        ratio_to_loaded=statistics.median(served / loaded for loaded, _, served in speeds),
        ratio=statistics.median(served / bare for _, bare, served in speeds),
        p50_ms=statistics.median(outcome.p50_ms for outcome in outcomes),
        p99_ms=statistics.median(outcome.p99_ms for outcome in outcomes),
        rounds=speeds,
    )


def _bare(case: Case, preparation: str) -> float:
    """Images per second of bare loops, one process pinned to each core."""
    loop = [sys.executable, "-m", "benchmarks.bare", case.model, preparation, str(case.seconds)]
    processes = [
        subprocess.Popen(["taskset", "-c", str(core), *loop], stdout=subprocess.PIPE, text=True)
        for core in range(case.cores)
    ]
    return sum(float(process.communicate()[0]) for process in processes)


def _served(case: Case) -> Outcome:
    last = last_core()
    cores = "0" if case.cores == 1 else f"0-{last}"
    with running_service(pin=cores, engine_threads=str(case.cores)) as port:
        outcome = closed_loop(port, f"/generate/{case.model}", {"n": case.n}, case.connections, case.seconds, last)
    if outcome.failures:
        raise RuntimeError(f"{case.label}: {outcome.failures} responses were not 200")
    return outcome


if __name__ == "__main__":
    main()
