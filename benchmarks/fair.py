"""Fairness between models: the quick GAN's p99 alone, and while the DDPM is overloaded.

Four connections request single pictures of the quick GAN; the load on the DDPM is sixteen connections that request
sixteen pictures each. Several alternating rounds on one service; servers and clients share the machine's cores. The
bound is three times the p99 alone plus one tick of the DDPM.

    python -m benchmarks.fair                   prints the figures, writes benchmarks/results/fair.json
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.clients import closed_loop, closed_loop_command
from benchmarks.load import Outcome
from benchmarks.report import write_record
from benchmarks.server import running_service
from service.engine.cost import CostModel
from service.models.registry import pick_device
from service.models.torchscript import load_model
from service.models.warmup import warm_up
from service.settings import Settings

MODELS = ("quick-gan", "ddpm")
SECONDS = 5.0
FLOOD_LEADS_S = 2.0


class Fairness(NamedTuple):
    """The medians of the quick GAN's p99s, the DDPM's longest tick, the bound, and the rounds; milliseconds."""

    p99_alone_ms: float
    p99_flooded_ms: float
    ddpm_tick_ms: float
    bound_ms: float
    alone: list[Outcome]
    flooded: list[Outcome]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    rounds = parser.parse_args().rounds
    with running_service() as port:
        found = measure(port, rounds)
    print(
        f"p99 alone {found.p99_alone_ms:.1f} ms, flooded {found.p99_flooded_ms:.1f} ms; "
        f"bound {found.bound_ms:.1f} ms with a tick of {found.ddpm_tick_ms:.1f}"
    )
    write_record("fair", **found._asdict())


def measure(port: int, rounds: int) -> Fairness:
    """Alternating rounds on a running service."""
    tick_ms = _tick_ms()
    alone, flooded = [], []
    for _ in range(rounds):
        alone.append(_ask_quick_gan(port))
        with _flood(port):
            flooded.append(_ask_quick_gan(port))
    p99_alone, p99_flooded = (statistics.median(outcome.p99_ms for outcome in each) for each in (alone, flooded))
    return Fairness(p99_alone, p99_flooded, tick_ms, 3 * p99_alone + tick_ms, alone, flooded)


def _tick_ms() -> float:
    """The DDPM's longest tick while another model waits."""
    settings = Settings()
    cost: CostModel = warm_up(load_model(Path("weights/ddpm"), pick_device("cpu")), settings)
    return cost.forward_ms(cost.bucket_within(settings.tick_budget_ms))


def _ask_quick_gan(port: int) -> Outcome:
    outcome = closed_loop(port, "/generate/quick-gan", {"n": 1}, connections=4, seconds=SECONDS)
    if outcome.failures:
        raise RuntimeError(f"{outcome.failures} responses of the quick GAN were not 200")
    return outcome


@contextmanager
def _flood(port: int) -> Iterator[None]:
    """Overload the DDPM from before the body begins until it ends."""
    command = closed_loop_command(port, "/generate/ddpm", {"n": 16}, 16, FLOOD_LEADS_S + 2 * SECONDS)
    flood = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(FLOOD_LEADS_S)
    try:
        yield
        if flood.poll() is not None:
            raise RuntimeError("the flood ended too early")
    finally:
        flood.terminate()
        flood.wait()
        time.sleep(1.0)  # cancelled rows leave before their next step


if __name__ == "__main__":
    main()
