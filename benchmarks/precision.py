"""Denoising in bfloat16 against float32: rows per second on one torch thread, by batch size, in alternating rounds.

python -m benchmarks.precision              prints a table, writes benchmarks/results/precision.json
python -m benchmarks.precision --served     pictures per second of two services in turn, precision-served.json
"""

import argparse
import statistics
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
import uvloop

from benchmarks.bursts import Burst, Case, burst, in_turn, ratios
from benchmarks.reliability.alone import greatest_difference
from benchmarks.report import write_record
from benchmarks.server import UNBOUNDED, service_process, some_models
from service.engine.tick import run
from service.models.precision import Precision, at_precision, check_precision
from service.models.torchscript import load_model
from service.models.warmup import example_batch, without_ends
from service.process import keep_memory

MODELS = ("ddpm", "emoji")
SIZES = (1, 2, 4, 8, 16, 32, 64)
PRECISIONS: tuple[Precision, Precision] = ("float32", "bfloat16")
CPU = torch.device("cpu")
#: Loads that saturate a service.
CASES = [
    Case("ddpm, 20 steps", "/generate/ddpm", {"steps": 20}, connections=32),
    Case("emoji, 20 guided steps", "/generate/emoji", {"prompt": "a red heart", "steps": 20}, connections=32, length=2),
]
BURST_S, SEEDS = 4.0, 100


def main() -> None:
    """Measure each model at each size, and print and record medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--served", action="store_true", help="whole services instead of forward passes; 3 minutes")
    options = parser.parse_args()
    check_precision("bfloat16", CPU)
    if options.served:
        measure_served(options.rounds)
        return
    torch.set_num_threads(1)
    keep_memory()
    medians = {name: measure(name, options.rounds) for name in MODELS}
    for name, of_model in medians.items():
        print(f"{name:20}" + "".join(f"{size:>8}" for size in SIZES))
        for precision, figures in of_model.items():
            print(f"  {precision:18}" + "".join(f"{figure:8.0f}" for figure in figures))
        ratios = [fast / exact for exact, fast in zip(*of_model.values(), strict=True)]
        print(f"  {'times as many':18}" + "".join(f"{ratio:8.2f}" for ratio in ratios))
    write_record("precision", sizes=SIZES, medians_rows_a_second=medians)


def measure(name: str, rounds: int) -> dict[Precision, list[float]]:
    """Rows per second at each size by precision: steps without decoding."""
    # A copy for each: TorchScript compiles a function once, for the precision of its first call.
    models = {precision: at_precision(load_model(Path("weights") / name, CPU), precision) for precision in PRECISIONS}
    medians: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
    for size in SIZES:
        steps = {
            precision: partial(run, model, without_ends(example_batch(model, size)))
            for precision, model in models.items()
        }
        times: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
        for _ in range(1 + rounds):
            for precision, step in steps.items():
                started = time.perf_counter()
                step()
                times[precision].append(time.perf_counter() - started)
        for precision, found in times.items():
            medians[precision].append(size / statistics.median(found[1:]))  # the first one compiles
    return medians


def measure_served(rounds: int) -> None:
    """Load a service of each precision in turn; print and record pictures per second and their ratios."""
    with some_models(*MODELS) as weights, ExitStack() as running:
        settings = UNBOUNDED | {"weights_dir": str(weights), "spare_engine": "false"}
        services = {
            precision: running.enter_context(service_process(None, precision=precision, **settings))
            for precision in PRECISIONS
        }
        measures = {
            f"{case.name}, {precision}": partial(burst, service, case, BURST_S)
            for case in CASES
            for precision, service in services.items()
        }
        bursts = in_turn(measures, rounds)
        # Alone and in batches; in float32 it is at most 1.
        levels = {
            precision: uvloop.run(greatest_difference(service, "ddpm", range(SEEDS)))
            for precision, service in services.items()
        }
    gains = {case.name: gain(case, bursts) for case in CASES}
    for name, found in bursts.items():
        print(f"{name:40} {statistics.median(each.answers_per_s for each in found):8.1f} pictures/s")
    for name, times in gains.items():
        print(f"{name:40} {statistics.median(times):8.2f} times as many ({min(times):.2f} to {max(times):.2f})")
    print(f"greatest difference of a seed's picture between batches, in levels of 255: {levels}")
    write_record("precision-served", bursts=bursts, times_as_many=gains, levels=levels)


def gain(case: Case, bursts: dict[str, list[Burst]]) -> list[float]:
    """Pictures per second in bfloat16 over those in float32, round by round."""
    exact, fast = ([each.answers_per_s for each in bursts[f"{case.name}, {precision}"]] for precision in PRECISIONS)
    return ratios(fast, exact)


if __name__ == "__main__":
    main()
