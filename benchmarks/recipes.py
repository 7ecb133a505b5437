"""Textbook recipes as baselines, trained on the same pictures and scored by the same evaluator.

    python -m benchmarks.recipes mlp-vae --json docs/baselines/mlp-vae.json

Compared in docs/QUALITY.md. Both are unconditional and have no averaged weights.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from service.sampling.pixels import to_uint8
from trainer.config import DatasetName
from trainer.data import ImageData, load, to_unit_range
from trainer.evaluate import measurement
from trainer.evaluate.evaluator import load_evaluator
from trainer.evaluate.quality import against_test, evaluate_pictures

BATCH_SIZE = 128
DATASET: DatasetName = "fashion-mnist"
PIXELS = 784


def mlp_vae(data: ImageData, epochs: int) -> Callable[[int], Tensor]:
    """784-400-20, binary cross-entropy and KL, Adam 1e-3 (Kingma & Welling 2014, as in most tutorials)."""
    encoder = nn.Sequential(nn.Linear(PIXELS, 400), nn.ReLU(), nn.Linear(400, 40))
    decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, PIXELS))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    for images in _batches(data, epochs, "mlp-vae"):
        pixels = (images + 1) / 2
        mean, logvar = encoder(pixels).chunk(2, dim=1)
        logits = decoder(mean + (logvar / 2).exp() * torch.randn_like(mean))
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()
        loss = F.binary_cross_entropy_with_logits(logits, pixels, reduction="sum") + kl
        _descend(optimizer, loss / len(images))
    return lambda count: 2 * decoder(torch.randn(count, 20)).sigmoid() - 1


def mlp_gan(data: ImageData, epochs: int) -> Callable[[int], Tensor]:
    """100-256-512-1024-784 against 784-1024-512-256-1, cross-entropy, Adam 2e-4 (Goodfellow et al. 2014)."""
    generator = _perceptron(100, 256, 512, 1024, PIXELS, dropout=0.0).append(nn.Tanh())
    discriminator = _perceptron(PIXELS, 1024, 512, 256, 1, dropout=0.3)
    first = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    second = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for images in _batches(data, epochs, "mlp-gan"):
        fake = generator(torch.randn(len(images), 100))
        _descend(second, F.softplus(-discriminator(images)).mean() + F.softplus(discriminator(fake.detach())).mean())
        _descend(first, F.softplus(-discriminator(fake)).mean())
    generator.eval()
    return lambda count: generator(torch.randn(count, 100))


RECIPES = {"mlp-vae": (mlp_vae, 20), "mlp-gan": (mlp_gan, 50)}


def _perceptron(*sizes: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes[:-1]):
        layers += [nn.Linear(size, following), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def _batches(data: ImageData, epochs: int, name: str) -> Iterator[Tensor]:
    """Pictures (batch, 784) in [-1, 1], in a new order each epoch."""
    for _ in tqdm(range(epochs), desc=name, unit="epoch"):
        for index in torch.split(torch.randperm(len(data.images)), BATCH_SIZE):
            yield to_unit_range(data.images[index]).flatten(1)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def draw(decode: Callable[[int], Tensor], count: int) -> Tensor:
    """uint8 (count, 1, 28, 28)."""
    return to_uint8(decode(count).reshape(count, 1, 28, 28)).permute(0, 3, 1, 2)


def main() -> None:
    """Train a recipe, score it and write the scores."""
    options = _parser().parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    train, test = (load(DATASET, options.data_dir, train=part, image_size=28, channels=1) for part in (True, False))
    recipe, epochs = RECIPES[options.recipe]
    pictures = draw(recipe(train, options.epochs or epochs), options.samples)
    evaluator = load_evaluator(Path("weights/evaluator"), torch.device("cpu"))
    reference = against_test(evaluator, test, train, options.samples)
    measured = measurement.measurement_of(
        evaluate_pictures(pictures, reference),
        reference.floor,
        model=options.recipe,
        reference=reference.name,
        evaluator=evaluator.facts.version,
        samples=options.samples,
        first_seed=options.seed,
        sampler=None,
    )
    print(measurement.table(measured))
    if options.json is not None:
        measurement.write_json(options.json, measured)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to keep the scores")
    parser.add_argument("--data-dir", type=Path)
    return parser


if __name__ == "__main__":
    main()
