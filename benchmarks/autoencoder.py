"""Reconstruction of test pictures by the shipped autoencoder, compared with principal components of training pictures.

Errors are mean squares of pixels in [-1, 1]; the distance (docs/QUALITY.md) is between reconstructions and originals.
Components have full precision; the autoencoder's codes are the posterior means.

    python -m benchmarks.autoencoder             prints a table, writes benchmarks/results/autoencoder.json
"""

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.report import write_record
from service.contract.artifact import read_artifact
from service.contract.manifest import read_manifest
from service.sampling.pixels import to_uint8
from trainer.data import load_fashion_mnist, to_unit_range
from trainer.evaluate.evaluator import load_evaluator
from trainer.evaluate.quality import Reference, against_test, evaluate_pictures

WEIGHTS = Path("weights")
COMPONENTS = (16, 32, 64, 98, 196)
BATCH_SIZE = 250


@dataclass(frozen=True)
class Kept:
    """The mean squared error of reconstructions, and the Frechet distance of 10,000 to the originals."""

    numbers: int
    error: float
    frechet_distance: float


def main() -> None:
    """Measure and report."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    train, test = load_fashion_mnist(), load_fashion_mnist(train=False)
    evaluator = load_evaluator(WEIGHTS / "evaluator", torch.device("cpu"))
    reference = against_test(evaluator, test, train, len(test.images))
    pixels = to_unit_range(test.images)
    kept = {"autoencoder": _kept(*_reconstructed(pixels, test.labels), pixels, reference)}
    mean, components = principal_components(to_unit_range(train.images).flatten(1))
    for count in COMPONENTS:
        back = projected(pixels.flatten(1), mean, components[:, :count]).reshape(pixels.shape)
        kept[f"{count} components"] = _kept(count, back, pixels, reference)
    print(f"{'':16}{'numbers':>10}{'error':>10}{'distance':>10}")
    for name, each in kept.items():
        print(f"{name:16}{each.numbers:10}{each.error:10.4f}{each.frechet_distance:10.3f}")
    write_record("autoencoder", kept=kept, reference=reference.name)


def principal_components(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (dimension,) and the components (dimension, dimension) of rows (count, dimension), largest first."""
    mean = rows.mean(dim=0)
    _, vectors = torch.linalg.eigh((rows - mean).double().T.cov())
    return mean, vectors.flip(1).float()


def projected(rows: Tensor, mean: Tensor, components: Tensor) -> Tensor:
    """Rows (batch, dimension) projected onto ``components`` (dimension, count)."""
    return mean + (rows - mean) @ components @ components.T


@torch.inference_mode()
def _reconstructed(pixels: Tensor, labels: Tensor) -> tuple[int, Tensor]:
    """The size of a code, and the reconstructions."""
    folder = WEIGHTS / "autoencoder"
    payload = io.BytesIO(read_artifact(folder, read_manifest(folder).artifact))
    model = torch.jit.load(payload, map_location="cpu")  # type: ignore[no-untyped-call]
    back = []
    for image, label in zip(torch.split(pixels, BATCH_SIZE), torch.split(labels, BATCH_SIZE), strict=True):
        code, _ = model.encode(image, label)
        back.append(model.decode(code, label))
    return code[0].numel(), torch.cat(back)


def _kept(numbers: int, back: Tensor, pixels: Tensor, reference: Reference) -> Kept:
    error = float((back.clamp(-1, 1) - pixels).square().mean())
    quality = evaluate_pictures(to_uint8(back).permute(0, 3, 1, 2), reference)
    return Kept(numbers, error, quality.frechet_distance)


if __name__ == "__main__":
    main()
