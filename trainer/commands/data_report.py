"""What a command says of its data before it begins: counts, what is missing, and what will not give good pictures."""

import math
from collections.abc import Iterator

import torch

from trainer.config import RunConfig, is_own, preset_values
from trainer.data import ImageData
from trainer.run.schedule import Plan

#: Training pictures of Fashion-MNIST, by which the presets' epochs were chosen.
PRESET_IMAGES = 60_000
#: Warn below this share of the preset's steps: the shipped models took 0.4 of them and more.
FEW_STEPS = 0.25
FEW_IMAGES = 1_000
UNBALANCED = 10
NAMED_CLASSES = 20


def describe(data: ImageData) -> Iterator[str]:
    """Lines on what was read: where from, the classes of a folder with their counts, and which files are missing."""
    yield f"data: {data.provenance}"
    if data.facts.name == "folder" and data.facts.class_names:
        counted = [f"{name} ({count:,})" for name, count in zip(data.facts.class_names, _counts(data), strict=True)]
        more = f" and {len(counted) - NAMED_CLASSES:,} more" if len(counted) > NAMED_CLASSES else ""
        yield f"classes, in the order of their labels: {', '.join(counted[:NAMED_CLASSES])}{more}"
    for remark in data.remarks:
        yield f"{'warning' if remark.refused else 'note'}: {remark}"


def poor_data(data: ImageData) -> Iterator[str]:
    """What in a folder of pictures makes a model poor."""
    names, counts = data.facts.class_names, _counts(data)
    if len(data.images) < FEW_IMAGES:
        yield (
            f"{len(data.images):,} pictures are few: below {FEW_IMAGES:,} a model repeats its training pictures more "
            "than it makes new ones"
        )
    if len(names) == 1:
        yield f"{names[0]} is the only class: there is nothing to choose between"
    if names and max(counts) > UNBALANCED * min(counts):
        least, most = counts.index(min(counts)), counts.index(max(counts))
        yield (
            f"the classes are unbalanced: {names[least]} has {counts[least]:,} pictures, {names[most]} has "
            f"{counts[most]:,}; rare classes get poor pictures"
        )


def few_steps(config: RunConfig, plan: Plan) -> Iterator[str]:
    """A warning where ``plan`` has far fewer steps than the preset of the run was made for."""
    if is_own(config.preset):
        return
    values = preset_values(config.preset)
    epochs, batch = values["epochs"], values["batch_size"]
    usual = PRESET_IMAGES // batch * epochs
    if plan.total < FEW_STEPS * usual:
        yield (
            f"{plan.total:,} steps are far too few: the preset {config.preset} takes {usual:,} ({epochs} epochs of "
            f"{PRESET_IMAGES:,} pictures in batches of {batch}); --epochs {math.ceil(usual / plan.per_epoch)} "
            "would give as many here"
        )


def _counts(data: ImageData) -> list[int]:
    """Pictures of each class."""
    return torch.bincount(data.labels, minlength=len(data.facts.class_names)).tolist()
