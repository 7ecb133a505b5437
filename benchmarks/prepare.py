"""Ways to prepare a model for a CPU: microseconds per row of a forward pass on one torch thread.

Each way runs in its own process, because the allocator is configured per process. Medians over alternating rounds; see
docs/decisions/0006 and 0014.

    python -m benchmarks.prepare                prints a table, writes benchmarks/results/prepare.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import write_record
from service.contract.manifest import Manifest, read_manifest
from service.process import keep_memory

MODELS = ("vae", "quick-gan", "ddpm")
SIZES = (1, 4, 16, 32)
SECONDS = 0.5

Part = Callable[..., Any]


def _as_served(part: torch.jit.ScriptModule) -> Part:
    from service.models.prepare import prepared  # here, because importing it changes how TorchScript runs

    return prepared(part, torch.device("cpu"))


#: How each way prepares a part, and whether the process keeps freed memory.
WAYS: dict[str, tuple[Callable[[torch.jit.ScriptModule], Part], bool]] = {
    "as loaded": (lambda part: part, False),
    "frozen": (lambda part: torch.jit.freeze(part), False),
    "frozen, channels_last": (lambda part: torch.jit.freeze(_channels_last(part)), False),
    "frozen, channels_last, memory kept": (lambda part: torch.jit.freeze(_channels_last(part)), True),
    "the same, optimize_for_inference": (
        lambda part: torch.jit.optimize_for_inference(torch.jit.freeze(_channels_last(part))),
        True,
    ),
    "memory kept, products (ours)": (_as_served, True),
}


def main() -> None:
    """Measure every way and report; with --way, measure one and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps({name: measure(name, options.way) for name in MODELS}))
        return
    rounds = [{way: _in_a_process(way) for way in WAYS} for _ in range(options.rounds)]
    medians = {name: {way: _medians([each[way][name] for each in rounds]) for way in WAYS} for name in MODELS}
    for name, ways in medians.items():
        print(f"{name:44}" + "".join(f"{f'{size} rows':>10}" for size in SIZES))
        for way, figures in ways.items():
            print(f"  {way:42}" + "".join(f"{figure:10.0f}" for figure in figures))
    write_record("prepare", sizes=SIZES, medians_us_a_row=medians, rounds=rounds)


def _medians(rounds: list[list[float]]) -> list[float]:
    """The median of each size over the rounds."""
    return [statistics.median(figures) for figures in zip(*rounds, strict=True)]


def measure(name: str, way: str) -> list[float]:
    """Microseconds per row at each size, medians over half a second."""
    warnings.filterwarnings("ignore", message="`torch.jit")
    torch.set_num_threads(1)
    prepare, keeps = WAYS[way]
    if keeps:
        keep_memory()
    manifest = read_manifest(Path("weights") / name)
    module = torch.jit.load(str(Path("weights") / name / manifest.artifact.file)).eval()  # type: ignore[no-untyped-call]
    part = prepare(module.denoise if manifest.denoises else module.decode)
    with torch.inference_mode():
        return [_us_a_row(part, _inputs(manifest, rows)) for rows in SIZES]


def _inputs(manifest: Manifest, rows: int) -> list[torch.Tensor]:
    x, label = torch.randn(rows, *manifest.latent_shape), torch.zeros(rows, dtype=torch.int64)
    return [x, torch.full((rows,), 0.5), label] if manifest.denoises else [x, label]


def _us_a_row(part: Part, inputs: list[torch.Tensor]) -> float:
    for _ in range(4):
        part(*inputs)
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        part(*inputs)
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times) / len(inputs[0])


def _channels_last(part: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    return part.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _in_a_process(way: str) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "benchmarks.prepare", "--way", way]
    figures: dict[str, list[float]] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return figures


if __name__ == "__main__":
    main()
