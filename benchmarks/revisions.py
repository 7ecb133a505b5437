"""This tree's service against that of another revision: both run at once, and are loaded in short bursts in turn.

A change of a few percent is smaller than what a shared machine does by itself within a minute. So the two services are
asked within seconds of each other, and the result is the median of the ratios round by round, with its quartiles.
Processor time per request is the steadier figure: it counts all threads of the service and its child processes, and not
what other programs take. The server has core 0 and the client the last one.

    python -m benchmarks.revisions HEAD~20                     a table
    python -m benchmarks.revisions v0.1.0 --rounds 40          closer quartiles
"""

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.clients import Body, closed_loop, last_core
from benchmarks.load import WARM_UP_S
from benchmarks.report import write_record
from benchmarks.server import Service, service_process


class Case(NamedTuple):
    """One kind of load: ``connections`` clients in a closed loop."""

    name: str
    path: str
    body: Body
    connections: int


CASES = (
    Case("quick-gan, n = 1, 64 connections", "/generate/quick-gan", {}, 64),
    Case("quick-gan, n = 1, 1 connection", "/generate/quick-gan", {}, 1),
    Case("quick-gan, n = 16, 8 connections", "/generate/quick-gan", {"n": 16}, 8),
    Case("ddpm, 10 steps, n = 4, 16 connections", "/generate/ddpm", {"n": 4}, 16),
)


class Burst(NamedTuple):
    """What one burst measured: answers a second, and processor microseconds of the service per answer."""

    answers_per_s: float
    cpu_us: float


@dataclass
class Ratios:
    """This tree's figures over the other revision's, one per round."""

    answers: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, ours: Burst, theirs: Burst) -> None:
        """Add a round."""
        self.answers.append(ours.answers_per_s / theirs.answers_per_s)
        self.cpu.append(ours.cpu_us / theirs.cpu_us)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="what git knows the other tree by")
    parser.add_argument("--rounds", type=int, default=20, help="rounds in turn (default 20)")
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds of a burst (default 1.5)")
    options = parser.parse_args()
    with checked_out(options.revision) as other, _service(Path.cwd()) as ours, _service(other) as theirs:
        measured = {case.name: _compare(case, ours, theirs, options.rounds, options.seconds) for case in CASES}
    print(f"| this tree / {options.revision} | answers per s | processor time per answer |\n| --- | --- | --- |")
    for name, ratios in measured.items():
        print(f"| {name} | {summary(ratios.answers)} | {summary(ratios.cpu)} |")
    write_record("revisions", revision=options.revision, ratios=measured)


def summary(ratios: Sequence[float]) -> str:
    """The median, and the quartiles in brackets."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A work tree of ``revision`` in a temporary folder. Raises CalledProcessError when git knows no such revision."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], check=True)


def _service(tree: Path) -> AbstractContextManager[Service]:
    return service_process("0", folder=tree, engine_threads="1")


def _compare(case: Case, ours: Service, theirs: Service, rounds: int, seconds: float) -> Ratios:
    ratios = Ratios()
    for each in range(rounds + 1):
        pair = (ours, theirs) if each % 2 else (theirs, ours)
        bursts = {service.port: _burst(service, case, seconds) for service in pair}
        if each:  # the first round warms both up
            ratios.add(bursts[ours.port], bursts[theirs.port])
    return ratios


def _burst(service: Service, case: Case, seconds: float) -> Burst:
    before_s = service.cpu_s()
    outcome = closed_loop(service.port, case.path, case.body, case.connections, seconds, last_core())
    answers = outcome.answers_per_s * (seconds + WARM_UP_S)
    return Burst(outcome.answers_per_s, 1e6 * (service.cpu_s() - before_s) / answers)


if __name__ == "__main__":
    main()
