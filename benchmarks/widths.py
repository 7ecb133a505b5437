"""Networks of different sizes at equal processor time, on emoji without their text, as a folder in colour.

A network is PATCHxWIDTH: 4x96 divides images into patches of 4 x 4 pixels, with 96 channels for each. All train for
``--minutes`` of one thread; what a step takes is measured before. Each is scored by a classifier that learned rotations
of the same images (docs/QUALITY.md), 1,000 generated images against half of the training images.

    python -m benchmarks.widths ddpm --image-size 64 2x48 4x64 4x96
"""

import argparse
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.codes import per_call
from benchmarks.report import write_record
from benchmarks.train import write_pictures
from trainer.config import RunConfig, load_preset
from trainer.data import load
from trainer.evaluate.measurement import read_json
from trainer.objectives import build
from trainer.objectives.base import Position

ROOT = Path("runs/widths")
EMOJI = ROOT / "emoji"
CHANNELS = 3
SCORES = "scores.json"
#: Steps that are timed, after one that is not; a gan takes its penalty in one of 8.
TIMED_STEPS = 8


class Network(NamedTuple):
    """The side of a patch in pixels, and the channels for each."""

    patch: int
    width: int

    def __str__(self) -> str:
        return f"{self.patch}x{self.width}"


@dataclass(frozen=True)
class Scored:
    """A network's training and scores; times are processor time of one thread."""

    network: str
    parameters: int
    steps: int
    seconds_per_step: float
    frechet_distance: float
    kernel_distance: float
    coverage: float


def main() -> None:
    """Train, score and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", help="ddpm, gan, vae, or your own *.toml file")
    parser.add_argument("networks", nargs="+", type=_network, metavar="PATCHxWIDTH", help="as in 4x96")
    parser.add_argument("--image-size", type=int, choices=[32, 64], default=64, help="(default: 64)")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training for each network (default: 20)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write_folder()
    evaluator = ROOT / f"evaluator-{options.image_size}"
    if not evaluator.exists():
        _trainer("evaluator", *_images(options.image_size), "--out", str(evaluator))
    record, scored = f"widths-{Path(options.preset).stem}-{options.image_size}", []
    for network in options.networks:
        scored.append(measure(options, network, evaluator))
        write_record(record, minutes=options.minutes, scored=scored)  # an interrupted run keeps what it measured
    print(f"\n{'network':10}{'parameters':>12}{'s per step':>12}{'steps':>8}{'distance':>10}{'coverage':>10}")
    for each in scored:
        print(
            f"{each.network:10}{each.parameters:12,}{each.seconds_per_step:12.3f}{each.steps:8,}"
            f"{each.frechet_distance:10.2f}{each.coverage:10.3f}"
        )


def write_folder() -> None:
    """Write all emoji, of both splits, as PNG files, unless that was done before."""
    if not EMOJI.exists():
        train, test = (load("emoji", train=part, image_size=64, channels=CHANNELS) for part in (True, False))
        write_pictures(replace(train, images=torch.cat([train.images, test.images])), EMOJI)


def measure(options: argparse.Namespace, network: Network, evaluator: Path) -> Scored:
    """Train the preset with ``network`` and score it."""
    parameters, seconds = cost(
        load_preset(
            options.preset,
            dataset="folder",
            image_size=options.image_size,
            channels=CHANNELS,
            precision="bf16",
            patch=network.patch,
            width=network.width,
        )
    )
    steps = math.ceil(60 * options.minutes / seconds)
    run = ROOT / f"{Path(options.preset).stem}-{options.image_size}-{network}"
    _trainer(*training(options.preset, options.image_size, network, steps, run))
    _trainer(*evaluation(run, evaluator))
    scores = read_json(run / SCORES).scores
    return Scored(
        str(network),
        parameters,
        steps,
        seconds,
        scores["frechet_distance"],
        scores["kernel_distance"],
        scores["coverage"],
    )


def training(preset: str, image_size: int, network: Network, steps: int, run: Path) -> list[str]:
    """The arguments that train ``network``, with one grid of samples at the end: an epoch has few images."""
    sizes = ["--patch", str(network.patch), "--width", str(network.width)]
    length = ["--steps", str(steps), "--grid-every", str(steps), "--precision", "bf16"]
    return ["train", preset, *_images(image_size), *sizes, *length, "--out", str(run), "--overwrite"]


def evaluation(run: Path, evaluator: Path) -> list[str]:
    """The arguments that score a run."""
    against = ["--data-dir", str(EMOJI), "--against", "train", "--samples", "1000"]
    return ["evaluate", str(run), "--evaluator", str(evaluator), *against, "--json", str(run / SCORES)]


def cost(config: RunConfig) -> tuple[int, float]:
    """The generator's parameters, and the processor seconds of a training step."""
    shape = (config.channels, config.image_size, config.image_size)
    objective = build(config, shape, 0, torch.device("cpu"))
    images, label = torch.rand(config.batch_size, *shape) * 2 - 1, torch.zeros(config.batch_size, dtype=torch.int64)
    places = count()

    def step() -> None:
        place = next(places)
        objective.begin_micro_batch(place)
        objective.train_step(images, label, Position(place, TIMED_STEPS + 1))

    return sum(weight.numel() for weight in objective.generator.parameters()), per_call(step, TIMED_STEPS)


def _images(size: int) -> list[str]:
    return ["--dataset", f"folder:{EMOJI}", "--image-size", str(size), "--channels", str(CHANNELS)]


def _network(text: str) -> Network:
    patch, width = text.split("x")
    return Network(int(patch), int(width))


def _trainer(*arguments: str) -> None:
    """Run a command of the trainer on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "trainer", *arguments], check=True, env=environment)


if __name__ == "__main__":
    main()
