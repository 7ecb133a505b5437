"""What fewer solver steps do to the DDPM's pictures: a picture to look at, and a distance.

The distance is the sliced Wasserstein distance between pixel values (Bonneel et al. 2015): both sets of pictures are
projected on the same random directions, and sorted projections are compared. It sees shapes and tones, not meaning, and
depends on the number of pictures; so the same number of real training pictures is measured beside it, as the floor.
It is no FID.

    python -m benchmarks.steps                    docs/pictures/steps.png and benchmarks/results/steps.json
    python -m benchmarks.steps --samples 100      faster, noisier
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmarks.report import write_record
from service import images
from service.contract.manifest import SolverName
from service.engine.model import Model, load_model
from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.pixels import to_uint8
from service.sampling.solvers import Plan
from trainer.data import load_fashion_mnist

PICTURE = Path("docs/pictures/steps.png")
BATCH = 16
DIRECTIONS = 512
SHOWN = 10


def plans(model: Model) -> dict[str, Plan]:
    """What is compared, by name: every step that the model has, a chain cut short, and solvers with few steps."""
    every = model.plan("ddpm", model.max_steps)
    few: tuple[tuple[SolverName, int], ...] = (
        ("ddpm", 100),
        ("ddpm", 20),
        ("ddim", 20),
        ("dpmpp_2m", 20),
        ("dpmpp_2m", 10),
    )
    return {
        f"ddpm, all {len(every)} steps": every,
        "ddpm, cut to T = 100": Plan(every.table[-100:]),
        **{f"{solver}, {steps} steps": model.plan(solver, steps) for solver, steps in few},
    }


@dataclass(frozen=True)
class Result:
    """A sampler's distance to the test pictures, and its seconds a picture in batches of 16 on one thread."""

    sampler: str
    distance: float
    seconds_per_picture: float


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256, help="pictures for each sampler (default 256)")
    parser.add_argument("--weights", type=Path, default=Path("weights/ddpm"), help="model (default weights/ddpm)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.weights, torch.device("cpu"))
    reference = _pixels(load_fashion_mnist(train=False).images)
    floor = sliced_wasserstein(_pixels(load_fashion_mnist().images[: options.samples]), reference)
    print(f"{options.samples} real training pictures (the floor): {floor:.4f}")
    rows, results = [], []
    for name, plan in plans(model).items():
        pictures, seconds = generate(model, plan, options.samples)
        distance = sliced_wasserstein(_pixels(torch.from_numpy(pictures)), reference)
        results.append(Result(name, distance, seconds / options.samples))
        rows.append(pictures[:SHOWN])
        print(f"{name:22} {distance:.4f}, {results[-1].seconds_per_picture:.3f} s a picture")
    _write(rows, results, floor, options.samples, model)


def generate(model: Model, plan: Plan, count: int) -> tuple[NDArray[np.uint8], float]:
    """``count`` pictures, classes in turn, picture i from seed i; and the seconds they took."""
    assert model.denoise is not None
    manifest = model.manifest
    batches = []
    started = time.perf_counter()
    for first in tqdm(range(0, count, BATCH), desc=f"{len(plan)} steps", leave=False):
        seeds = range(first, min(first + BATCH, count))
        noises = [RowNoise(seed) for seed in seeds]
        latent = torch.stack([noise.draw(manifest.latent_shape) for noise in noises])
        label = torch.tensor([seed % len(manifest.class_names) for seed in seeds])
        clean = sample(
            model.denoise, latent, noises, label, plan, null_label=manifest.null_label, x0_range=manifest.x0_range
        )
        batches.append(to_uint8(clean).numpy())
    return np.concatenate(batches), time.perf_counter() - started


def sliced_wasserstein(pictures: Tensor, reference: Tensor) -> float:
    """Mean over random directions of the distance between two sets of pictures, (count, pixels) in [0, 1] each."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(pictures.shape[1], DIRECTIONS, generator=generator), dim=0)
    levels = (torch.arange(1000) + 0.5) / 1000
    first, second = (torch.quantile(each @ directions, levels, dim=0) for each in (pictures, reference))
    return float((first - second).abs().mean())


def _pixels(pictures: Tensor) -> Tensor:
    return pictures.flatten(1).float() / 255


def _write(rows: list[NDArray[np.uint8]], results: list[Result], floor: float, samples: int, model: Model) -> None:
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    sheet = np.concatenate([images.tile(list(row), SHOWN) for row in rows])
    PICTURE.write_bytes(images.encode_png(images.enlarge(sheet, 2)))
    write_record(
        "steps",
        model=f"{model.name} {model.manifest.version}",
        metric=f"sliced Wasserstein distance of pixels, {DIRECTIONS} directions, seed 0",
        samples=samples,
        reference="10,000 test pictures of Fashion-MNIST",
        floor=floor,
        results=results,
    )


if __name__ == "__main__":
    main()
