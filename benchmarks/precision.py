"""Denoising in bfloat16 against float32: rows per second on one torch thread, by batch size, in alternating rounds.

python -m benchmarks.precision              prints a table, writes benchmarks/results/precision.json
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.report import write_record
from service.engine.tick import run
from service.models.precision import Precision, at_precision, check_precision
from service.models.torchscript import load_model
from service.models.warmup import example_batch, without_ends
from service.process import keep_memory

MODELS = ("ddpm", "emoji")
SIZES = (1, 2, 4, 8, 16, 32, 64)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
CPU = torch.device("cpu")


def main() -> None:
    """Measure each model at each size, and print and record medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    options = parser.parse_args()
    check_precision("bfloat16", CPU)
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


if __name__ == "__main__":
    main()
