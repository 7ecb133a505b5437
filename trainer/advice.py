"""What a command says of its data before it begins: counts, what is missing, and what will not give good pictures."""

import math
import tomllib
from collections.abc import Iterator
from importlib import resources

import torch

from trainer.config import RunConfig
from trainer.data import ImageData

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


def before_training(config: RunConfig, data: ImageData, *, resumed: bool = False) -> Iterator[str]:
    """``describe``, the steps of the run, and for a folder warnings of what makes poor pictures.

    A resumed run keeps its number of epochs, so none is suggested.
    """
    yield from describe(data)
    per_epoch = len(data.images) // config.batch_size
    total = per_epoch * config.epochs
    yield f"training: {per_epoch:,} steps an epoch in batches of {config.batch_size:,}, {total:,} steps in all"
    if config.dataset != "folder":
        return
    yield from (f"warning: {line}" for line in _poor_data(data))
    if per_epoch and not resumed:
        yield from (f"warning: {line}" for line in _few_steps(config.preset, total, per_epoch))


def _poor_data(data: ImageData) -> Iterator[str]:
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
    numbers = [index for index, name in enumerate(names) if name.isascii() and name.isdigit() and name != str(index)]
    if numbers:
        yield (
            f"the class named {names[numbers[0]]} has the label {numbers[0]}: requests reach it by that number or by "
            "its name in quotes; name the sub-folders 0, 1, 2, ... for both to agree"
        )


def _few_steps(preset: str, total: int, per_epoch: int) -> Iterator[str]:
    values = tomllib.loads(resources.files("trainer").joinpath("presets", f"{preset}.toml").read_text())
    epochs, batch = values["epochs"], values["batch_size"]
    usual = PRESET_IMAGES // batch * epochs
    if total < FEW_STEPS * usual:
        yield (
            f"{total:,} steps are far too few: the preset {preset} takes {usual:,} ({epochs} epochs of "
            f"{PRESET_IMAGES:,} pictures in batches of {batch}); --epochs {math.ceil(usual / per_epoch)} would give "
            "as many here"
        )


def _counts(data: ImageData) -> list[int]:
    """Pictures of each class."""
    return torch.bincount(data.labels, minlength=len(data.facts.class_names)).tolist()
