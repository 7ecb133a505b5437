"""The commands that train evaluators: `evaluator` for images, `text-evaluator` for images with captions."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainer import data
from trainer.commands.data_report import describe
from trainer.commands.evaluate_text import MOST, TEXT_EVALUATOR_FOLDER
from trainer.commands.options import (
    UsageError,
    add_command,
    add_data_dir,
    add_dataset,
    add_device,
    add_overwrite,
    add_precision,
    data_dir_of,
    device_of,
    note,
    positive,
    seed,
)
from trainer.compute import precision
from trainer.config import CAPTIONED, EVALUATOR_FOLDER, SHAPES, Precision, dataset_option
from trainer.evaluate import evaluator, text_evaluator
from trainer.evaluate.classifier import accuracy, chance, default_epochs, learns_rotations, train_classifier
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import write_evaluator
from trainer.evaluate.text_evaluator import TextEvaluator, write_text_evaluator
from trainer.evaluate.text_quality import TextReference, pool
from trainer.evaluate.towers import EPOCHS, train_towers
from trainer.run import folder
from trainer.run.loop import device_name

EXAMPLES = """\
examples:
  python -m trainer evaluator --overwrite                        train the classifier in weights/evaluator
  python -m trainer text-evaluator --overwrite                   train the networks in weights/text-evaluator
  python -m trainer evaluator --dataset folder:photos --image-size 32 --channels 3 --out runs/evaluator
  python -m trainer evaluate runs/pets --evaluator runs/evaluator --data-dir photos   score your own images with it
"""

#: Warn below this fraction of the way from chance to perfect accuracy.
LEARNT = 0.2


def add_evaluators(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add evaluator and text-evaluator to the trainer's command line."""
    summary = "train the classifier on whose features all scores are based"
    command = _add(commands, "evaluator", summary, "fashion-mnist", EVALUATOR_FOLDER)
    command.set_defaults(command=_evaluator)
    command.add_argument("--epochs", type=positive, help="(default: 14, or more if an epoch has few steps)")

    summary = "train the two networks, one for images and one for captions, that score text-to-image models"
    command = _add(commands, "text-evaluator", summary, "emoji", TEXT_EVALUATOR_FOLDER)
    command.set_defaults(command=_text_evaluator)
    command.add_argument("--epochs", type=positive, default=EPOCHS, help="(default: %(default)s)")


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, dataset: str, out: Path
) -> argparse.ArgumentParser:
    command = add_command(commands, name, summary, EXAMPLES)
    add_data_dir(command)
    add_device(command)
    add_dataset(command, default=dataset)
    command.add_argument("--seed", type=seed, default=0)
    add_precision(command)
    command.add_argument("--out", type=Path, default=out, help="folder to write (default: %(default)s)")
    add_overwrite(command, "replace the evaluator in --out; scores of different evaluators are not comparable")
    return command


def _evaluator(options: argparse.Namespace) -> None:
    _train_into(options, evaluator.FACTS_FILE, _train_evaluator)


def _text_evaluator(options: argparse.Namespace) -> None:
    if options.dataset not in CAPTIONED:
        raise EvaluationError(f"--dataset {options.dataset}: its images have no captions")
    _train_into(options, text_evaluator.FACTS_FILE, _train_text_evaluator)


def _train_into(
    options: argparse.Namespace, facts_file: str, train: Callable[[argparse.Namespace, torch.device], None]
) -> None:
    """Train an evaluator in --out, which no other process may write meanwhile."""
    if (options.out / facts_file).exists() and not options.overwrite:
        raise UsageError(f"{options.out} already contains an evaluator: choose another --out, or add --overwrite")
    with folder.locked(options.out):
        train(options, device_of(options))


def _train_evaluator(options: argparse.Namespace, device: torch.device) -> None:
    train, test = _splits(options)
    print(*describe(train), sep="\n")
    if learns_rotations(train):
        print("fewer than two classes: the evaluator learns to predict rotations by 90 degrees")
    started, epochs = time.monotonic(), options.epochs or default_epochs(len(train.images))
    arithmetic = _precision(options, device)
    network = train_classifier(train, epochs, options.seed, device, arithmetic)
    facts = write_evaluator(
        options.out,
        network,
        test,
        accuracy(network, test),
        command=_command_of("evaluator", options, epochs, arithmetic),
        epochs=epochs,
        seconds=round(time.monotonic() - started, 1),
        device=device_name(device),
    )
    rotated = " in all four rotations" if learns_rotations(test) else ""
    print(f"{options.out}/{facts.file}: {facts.accuracy:.2%} of {facts.test_images:,} test images{rotated} correct")
    if facts.accuracy < chance(test) + LEARNT * (1 - chance(test)):
        note(
            f"warning: chance is {chance(test):.2%}, so its features say little about these images: "
            "try more --epochs or more images"
        )


def _train_text_evaluator(options: argparse.Namespace, device: torch.device) -> None:
    train, test = _splits(options, captioned=True)
    print(*describe(train), sep="\n")
    started, arithmetic = time.monotonic(), _precision(options, device)
    towers, tokenizer = train_towers(train, options.epochs, options.seed, device, arithmetic)
    reference = TextReference(TextEvaluator(towers, tokenizer, device), pool(train, test))
    facts = write_text_evaluator(
        options.out,
        towers,
        tokenizer,
        dataset=options.dataset,
        image_shape=train.facts.image_shape,
        recall={group: reference.real_recall(group, MOST) for group in reference.everything.groups},
        command=_command_of("text-evaluator", options, options.epochs, arithmetic),
        epochs=options.epochs,
        seconds=round(time.monotonic() - started, 1),
        device=device_name(device),
    )
    found = ", ".join(f"{group} {recall:.1%}" for group, recall in facts.recall.items())
    print(f"{options.out}/{facts.file}: the caption of a real image ranks first among 100: {found}")


def _splits(options: argparse.Namespace, *, captioned: bool = False) -> tuple[data.ImageData, data.ImageData]:
    """The training and the test split of --dataset."""
    channels, size = _shape(options)
    train, test = (
        data.load(
            options.dataset,
            data_dir_of(options),
            train=train,
            image_size=size,
            channels=channels,
            captioned=captioned,
        )
        for train in (True, False)
    )
    return train, test


def _shape(options: argparse.Namespace) -> tuple[int, int]:
    """Channels and size of the images."""
    channels, size = SHAPES[options.dataset]
    if options.dataset != "folder" and (options.channels or options.image_size):
        raise UsageError("--image-size and --channels are only for a folder")
    return options.channels or channels, options.image_size or size


def _precision(options: argparse.Namespace, device: torch.device) -> Precision:
    """The precision of the options, or the faster one on this machine."""
    if options.precision is not None:
        requested: Precision = options.precision
        return requested
    choice = precision.fastest(device)
    print(f"precision: {choice}", flush=True)
    return choice.precision


def _command_of(name: str, options: argparse.Namespace, epochs: int, arithmetic: Precision) -> str:
    """The command line that trains the same evaluator."""
    channels, size = _shape(options)
    shape = f" --image-size {size} --channels {channels}" if options.dataset == "folder" else ""
    return (
        f"python -m trainer {name} --dataset {dataset_option(options.dataset)}{shape} --epochs {epochs} "
        f"--seed {options.seed} --precision {arithmetic}"
    )
