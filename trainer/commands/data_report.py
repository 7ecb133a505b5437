"""Messages about the data before a command starts: counts, missing files, and warnings about poor data."""

import math
from collections.abc import Iterator

import torch

from trainer.config import RunConfig, is_own, preset_values
from trainer.data import ImageData
from trainer.run.schedule import Plan

#: Training images of Fashion-MNIST, for which the presets' epochs were chosen.
PRESET_IMAGES = 60_000
#: Warn below this fraction of the preset's steps; the shipped models took at least 0.4 of them.
FEW_STEPS = 0.25
FEW_IMAGES = 1_000
UNBALANCED = 10
NAMED_CLASSES = 20


def describe(data: ImageData) -> Iterator[str]:
    """Lines about the origin of the data, the classes of a folder with their counts, and remarks on its files."""
    yield f"data: {data.provenance}"
    if data.facts.name == "folder" and data.facts.class_names:
        counted = [f"{name} ({count:,})" for name, count in zip(data.facts.class_names, _counts(data), strict=True)]
        more = f" and {len(counted) - NAMED_CLASSES:,} more" if len(counted) > NAMED_CLASSES else ""
        yield f"classes, in the order of their labels: {', '.join(counted[:NAMED_CLASSES])}{more}"
    for remark in data.remarks:
        yield f"{'warning' if remark.refused else 'note'}: {remark}"


def poor_data(data: ImageData) -> Iterator[str]:
    """Warnings about properties of a folder that lead to poor models."""
    names, counts = data.facts.class_names, _counts(data)
    if len(data.images) < FEW_IMAGES:
        yield (
            f"{len(data.images):,} images are few: with fewer than {FEW_IMAGES:,} a model mostly reproduces its "
            "training images"
        )
    if len(names) == 1:
        yield f"{names[0]} is the only class, so the class of a request has no effect"
    if names and max(counts) > UNBALANCED * min(counts):
        least, most = counts.index(min(counts)), counts.index(max(counts))
        yield (
            f"the classes are unbalanced: {names[least]} has {counts[least]:,} images, {names[most]} has "
            f"{counts[most]:,}; images of rare classes will be poor"
        )


def few_steps(config: RunConfig, plan: Plan) -> Iterator[str]:
    """A warning if ``plan`` has far fewer steps than the preset was designed for."""
    if is_own(config.preset):
        return
    values = preset_values(config.preset)
    epochs, batch = values["epochs"], values["batch_size"]
    usual = PRESET_IMAGES // batch * epochs
    if plan.total < FEW_STEPS * usual:
        yield (
            f"{plan.total:,} steps are far too few: the preset {config.preset} takes {usual:,} ({epochs} epochs of "
            f"{PRESET_IMAGES:,} images in batches of {batch}); --epochs {math.ceil(usual / plan.per_epoch)} "
            "gives the same number here"
        )


def _counts(data: ImageData) -> list[int]:
    """The number of images of each class."""
    return torch.bincount(data.labels, minlength=len(data.facts.class_names)).tolist()
