"""Scores of text-to-image models: `text-evaluator` trains the networks, `evaluate` scores a run by caption group."""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainer import data
from trainer.commands.data_report import describe
from trainer.commands.options import (
    UsageError,
    add_dataset,
    add_device,
    add_overwrite,
    add_precision,
    data_dir_of,
    device_of,
    positive,
    seed,
)
from trainer.compute import precision
from trainer.config import CAPTIONED, EVALUATOR_FOLDER, SHAPES, DatasetName, dataset_option
from trainer.data import ImageData
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.pictures import Sampler, make_sampler
from trainer.evaluate.subject import Subject
from trainer.evaluate.text_evaluator import (
    FACTS_FILE,
    TextEvaluator,
    TextEvaluatorFacts,
    load_text_evaluator,
    write_text_evaluator,
)
from trainer.evaluate.text_quality import GroupScores, pool, real_recall, score_group
from trainer.evaluate.towers import EPOCHS, train_towers
from trainer.files import write
from trainer.generate import pictures_of
from trainer.models.text_parts import TextParts
from trainer.run import folder
from trainer.run.loop import device_name

TEXT_EVALUATOR_FOLDER = Path("weights/text-evaluator")
#: Images generated at a time, and at most for a group.
BATCH_SIZE, MOST = 50, 400


def add_text_evaluator(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add text-evaluator to the trainer's command line."""
    summary = "train the two networks, one for images and one for captions, that score text-to-image models"
    command = commands.add_parser("text-evaluator", help=summary, description=summary.capitalize() + ".")
    command.set_defaults(command=_text_evaluator)
    command.add_argument("--data-dir", type=Path, help="folder of the data set (default: as for train)")
    add_device(command)
    add_dataset(command, default="emoji")
    command.add_argument("--epochs", type=positive, default=EPOCHS, help="(default: %(default)s)")
    command.add_argument("--seed", type=seed, default=0)
    add_precision(command)
    command.add_argument(
        "--out", type=Path, default=TEXT_EVALUATOR_FOLDER, help="folder to write (default: %(default)s)"
    )
    add_overwrite(command, "replace the evaluator in --out; scores of the two are not comparable")


def _text_evaluator(options: argparse.Namespace) -> None:
    if options.dataset not in CAPTIONED:
        raise EvaluationError(f"--dataset {options.dataset}: its images have no captions")
    if (options.out / FACTS_FILE).exists() and not options.overwrite:
        raise UsageError(f"{options.out} already contains an evaluator: choose another --out, or add --overwrite")
    with folder.locked(options.out):
        _train_text_evaluator(options, device_of(options))


def _train_text_evaluator(options: argparse.Namespace, device: torch.device) -> None:
    channels, size = SHAPES[options.dataset]
    shape = options.channels or channels, options.image_size or size
    train, test = (_split(options.dataset, data_dir_of(options), shape, train=train) for train in (True, False))
    print(*describe(train), sep="\n")
    started, arithmetic = time.monotonic(), options.precision or precision.fastest(device).precision
    towers, tokenizer = train_towers(train, options.epochs, options.seed, device, arithmetic)
    everything, evaluator = pool(train, test), TextEvaluator(towers, tokenizer, device)
    named = f"--dataset {dataset_option(options.dataset)}"
    if options.dataset == "folder":
        named += f" --image-size {shape[1]} --channels {shape[0]}"
    facts = write_text_evaluator(
        options.out,
        towers,
        tokenizer,
        dataset=options.dataset,
        image_shape=train.facts.image_shape,
        recall={group: real_recall(evaluator, everything, group, MOST) for group in everything.groups},
        command=f"python -m trainer text-evaluator {named} --epochs {options.epochs} --seed {options.seed} "
        f"--precision {arithmetic}",
        epochs=options.epochs,
        seconds=round(time.monotonic() - started, 1),
        device=device_name(device),
    )
    found = ", ".join(f"{group} {recall:.1%}" for group, recall in facts.recall.items())
    print(f"{options.out}/{facts.file}: the caption of a real image ranks first among 100: {found}")


def evaluate_text(subject: Subject, options: argparse.Namespace, device: torch.device) -> None:
    """Score a text-to-image model on every caption group and print a table. Raises UsageError for unused options."""
    assert isinstance(subject.parts, TextParts)
    _reject_unused(options)
    chosen = TEXT_EVALUATOR_FOLDER if options.evaluator == EVALUATOR_FOLDER else options.evaluator
    facts, evaluator = load_text_evaluator(chosen, device)
    _require_matching(subject, facts)
    channels, size, _ = facts.image_shape
    train, test = (_split(facts.dataset, options.data_dir, (channels, size), train=train) for train in (True, False))
    everything = pool(train, test)
    sampler = make_sampler(subject.parts, options.solver, options.steps, options.guidance_scale)
    draw = _Draw(subject.parts, sampler, device)
    most = min(options.samples, MOST)
    drawings = subject.parts.hint_shape is not None
    scores = [
        score_group(evaluator, everything, group, draw, most, options.seed, drawings=drawings)
        for group in everything.groups
    ]
    print(f"{subject.name} ({sampler.name}), evaluator {facts.sha256[:8]}\n\n{table(scores)}")
    if options.json is not None:
        report = {"model": subject.name, "evaluator": facts.sha256[:8], "sampler": sampler.name, "seed": options.seed}
        groups = [dataclasses.asdict(each) for each in scores]
        write(options.json, json.dumps(report | {"groups": groups}, indent=2).encode() + b"\n")


def table(scores: Sequence[GroupScores]) -> str:
    """The scores as a Markdown table with one column per group."""
    rows = {
        "pictures": [f"{each.pictures:,}" for each in scores],
        "R@1 among 100 captions": [f"{each.recall:.3f}" for each in scores],
        "of real pictures": [f"{each.ceiling:.3f}" for each in scores],
        "Fréchet distance": [f"{each.distance:.1f}" for each in scores],
        "its floor": [f"{each.floor:.1f}" for each in scores],
        "coverage": [f"{each.coverage:.3f}" for each in scores],
        "copies of training pictures": [f"{each.copies:.3f}" for each in scores],
    }
    for rule in sorted(set().union(*(each.rules for each in scores))):
        rows[f"rule of {rule}"] = [f"{each.rules[rule]:.3f}" if rule in each.rules else "" for each in scores]
    if any(each.followed is not None for each in scores):
        rows["stroke pixels followed"] = [f"{each.followed or 0.0:.3f}" for each in scores]
    head = ["| | " + " | ".join(each.group for each in scores) + " |", "| --- " * (len(scores) + 1) + "|"]
    return "\n".join([*head, *(f"| {name} | {' | '.join(values)} |" for name, values in rows.items())])


@dataclasses.dataclass(frozen=True)
class _Draw:
    """Generates an image for each caption (and drawing) with consecutive seeds, in batches."""

    parts: TextParts
    sampler: Sampler
    device: torch.device

    def __call__(self, names: Sequence[str], first_seed: int, hints: Tensor | None) -> Tensor:
        made = []
        for first in range(0, len(names), BATCH_SIZE):
            some = names[first : first + BATCH_SIZE]
            seeds = range(first_seed + first, first_seed + first + len(some))
            plan, scale = self.sampler.plan, self.sampler.guidance_scale
            drawn = None if hints is None else hints[first : first + BATCH_SIZE]
            made.append(pictures_of(self.parts, some, seeds, self.device, plan, scale, drawn))
        return torch.cat(made).permute(0, 3, 1, 2).contiguous()


def _reject_unused(options: argparse.Namespace) -> None:
    """Raise UsageError for options of `evaluate` that do not apply to a text-to-image run."""
    unused = {
        "--write": options.write,
        "--inception": options.inception is not None,
        "--unconditional": options.unconditional,
        "--against train": options.against != "test",
    }
    for option, given in unused.items():
        if given:
            raise UsageError(f"{option}: not available for a text-to-image run")


def _require_matching(subject: Subject, facts: TextEvaluatorFacts) -> None:
    if (subject.dataset, subject.parts.image_shape) != (facts.dataset, facts.image_shape):
        raise EvaluationError(
            f"{subject.name} was trained on {subject.dataset}, the evaluator {facts.sha256[:8]} on {facts.dataset}: "
            "train another with python -m trainer text-evaluator and name it with --evaluator"
        )


def _split(dataset: DatasetName, data_dir: Path | None, shape: tuple[int, int], *, train: bool) -> ImageData:
    channels, size = shape
    return data.load(dataset, data_dir, train=train, image_size=size, channels=channels, captioned=True)
