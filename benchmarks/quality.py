"""Quality after the same number of training images: the project's DDPM compared with other trainers.

    ours         the unchanged ddpm preset: a flow, bf16, its own sampler in 10 steps
    lucidrains   denoising-diffusion-pytorch's Trainer (benchmarks/peers/train_lucidrains.py)
    diffusers    the loop of its unconditional example (benchmarks/peers/train_diffusers.py)

All train once on the same Fashion-MNIST pictures with the same batch size. The peers' U-Nets have the width whose
number of parameters is nearest to ours, and sample by DDIM in 20 steps without classes; ours samples the test set's mix
of classes. The distance is that of docs/QUALITY.md to the test images.

    python -m benchmarks.quality                 prints a table, writes benchmarks/results/quality.json
    python -m benchmarks.quality --images 640 --samples 200      a short trial, not recorded
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peers.training import Task
from benchmarks.report import verdict, write_record
from benchmarks.train import PEERS, first, theirs, write_pictures
from trainer.config import load_preset
from trainer.data import ImageData, load_fashion_mnist
from trainer.evaluate.evaluator import load_evaluator
from trainer.evaluate.pictures import draw, labels_like, make_sampler
from trainer.evaluate.quality import Reference, against_test, evaluate_pictures
from trainer.run.loop import TrainingRun

#: Goal: how many times closer to the floor than the better peer.
GOAL = 2.0


@dataclass(frozen=True)
class Result:
    """The result of one trainer; ``above_floor`` is the Frechet distance minus that of real pictures."""

    frechet_distance: float
    above_floor: float
    coverage: float
    parameters: int


def main() -> None:
    """Train, sample, score and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32_000, help="training pictures, each seen once (default 32000)")
    parser.add_argument("--samples", type=int, default=1000, help="pictures to score (default 1000)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole = load_fashion_mnist()
    evaluator = load_evaluator(Path("weights/evaluator"), torch.device("cpu"))
    reference = against_test(evaluator, load_fashion_mnist(train=False), whole, options.samples)
    data = first(whole, options.images)
    run = _trained(data)
    results = {"ours": _result(_drawn(run, reference, options.samples), reference, _size(run))}
    print(f"ours: {results['ours']}", flush=True)
    for name in (name for name, peer in PEERS.items() if peer.installed):
        results[name] = _theirs(name, data, reference, options, results["ours"].parameters)
        print(f"{name}: {results[name]}", flush=True)
    _report(results, reference, recorded=vars(options) == vars(parser.parse_args([])))


def _trained(data: ImageData) -> TrainingRun:
    with tempfile.TemporaryDirectory(prefix="genserve-bench-") as folder:
        run = TrainingRun(load_preset("ddpm", epochs=1, precision="bf16"), data, Path(folder), torch.device("cpu"))
        run.fit()
    return run


def _size(run: TrainingRun) -> int:
    return sum(weight.numel() for weight in run.objective.networks.parameters())


def _drawn(run: TrainingRun, reference: Reference, samples: int) -> Tensor:
    parts = run.objective.parts(run.ema.module)
    labels = labels_like(reference.labels, samples)
    return draw(parts, labels, make_sampler(parts), device=torch.device("cpu"))


def _theirs(name: str, data: ImageData, reference: Reference, options: argparse.Namespace, parameters: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="genserve-bench-") as scratch:
        pictures, drawn = Path(scratch, "pictures"), Path(scratch, "drawn.pt")
        write_pictures(data, pictures / "all")
        batch_size = load_preset("ddpm").batch_size
        steps = options.images // batch_size
        task = Task(
            str(pictures), 28, batch_size, 0, steps, parameters, options.threads, options.samples, drawn=str(drawn)
        )
        speed = theirs(PEERS[name], task)
        return _result(torch.load(drawn, weights_only=True), reference, speed.parameters)


def _result(pictures: Tensor, reference: Reference, parameters: int) -> Result:
    quality = evaluate_pictures(pictures, reference)
    distance = quality.frechet_distance
    return Result(distance, distance - reference.floor.frechet_distance, quality.coverage, parameters)


def _report(results: dict[str, Result], reference: Reference, *, recorded: bool) -> None:
    print(f"\n{'':12}{'distance':>10}{'coverage':>10}{'parameters':>12}")
    for name, each in results.items():
        figures = f"{each.frechet_distance:10.2f}{each.coverage:10.3f}"
        print(f"{name:12}{figures}{each.parameters:12,}")
    print(f"{'real':12}{reference.floor.frechet_distance:10.2f}{reference.floor.coverage:10.3f}")
    peers = [each.above_floor for name, each in results.items() if name != "ours"]
    if not peers:
        return
    closer = min(peers) / results["ours"].above_floor
    print(f"{closer:.1f} times as close to the floor as the better peer, goal {GOAL:g}: {verdict(closer >= GOAL)}")
    if recorded:
        write_record("quality", results=results, floor=reference.floor, closer=closer, goal=GOAL, met=closer >= GOAL)


if __name__ == "__main__":
    main()
