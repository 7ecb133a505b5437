"""This tree's service against that of another revision: both run at once, and are loaded in short bursts in turn.

See ``benchmarks.bursts``. The server has core 0 with all its processes, and the client the last core.

    python -m benchmarks.revisions HEAD~20                     a table
    python -m benchmarks.revisions v0.1.0 --rounds 40          closer quartiles
"""

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.bursts import Burst, Case, burst, in_turn, ratios, summary
from benchmarks.clients import last_core
from benchmarks.report import write_record
from benchmarks.server import Service, service_process

CASES = (
    Case("quick-gan, n = 1, 64 connections", "/generate/quick-gan", {}, 64),
    Case("quick-gan, n = 1, 1 connection", "/generate/quick-gan", {}, 1),
    Case("quick-gan, n = 16, 8 connections", "/generate/quick-gan", {"n": 16}, 8),
    Case("ddpm, 10 steps, n = 4, 16 connections", "/generate/ddpm", {"n": 4}, 16, length=4.0),
)


@dataclass
class Ratios:
    """This tree's figures over the other revision's, one per round."""

    answers: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, ours: list[Burst], theirs: list[Burst]) -> "Ratios":
        """Those of all rounds."""
        return cls(
            ratios([each.answers_per_s for each in ours], [each.answers_per_s for each in theirs]),
            ratios([each.cpu_us for each in ours], [each.cpu_us for each in theirs]),
        )


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
    for name, each in measured.items():
        print(f"| {name} | {summary(each.answers)} | {summary(each.cpu)} |")
    write_record("revisions", revision=options.revision, ratios=measured)


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
    return service_process("0", folder=str(tree), engine_threads="1")


def _compare(case: Case, ours: Service, theirs: Service, rounds: int, seconds: float) -> Ratios:
    measures = {name: partial(burst, each, case, seconds, last_core()) for name, each in (("a", ours), ("b", theirs))}
    bursts = in_turn(measures, rounds)
    return Ratios.of(bursts["a"], bursts["b"])


if __name__ == "__main__":
    main()
