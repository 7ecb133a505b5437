"""The command `evaluate` of a text-to-image model, which scores it by groups of captions."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainer import data
from trainer.commands.options import (
    UsageError,
)
from trainer.config import EVALUATOR_FOLDER, DatasetName
from trainer.data import ImageData
from trainer.evaluate import measurement, plots, text_curves
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.pictures import Sampler, make_sampler
from trainer.evaluate.sheets import labelled_sheet
from trainer.evaluate.subject import Subject
from trainer.evaluate.text_curves import TextCurves
from trainer.evaluate.text_evaluator import (
    TextEvaluator,
    TextEvaluatorFacts,
    load_text_evaluator,
)
from trainer.evaluate.text_quality import Group, GroupScores, TextReference, pool
from trainer.files import write
from trainer.models.text_parts import TextParts

TEXT_EVALUATOR_FOLDER = Path("weights/text-evaluator")
#: Images of a group, unless --samples says otherwise, and those of them in a sheet.
MOST, SHEET_COLUMNS, SHEET_ROWS = 400, 12, 5
FOLLOWED = {
    "followed": "stroke pixels followed",
    "followed_real": "by the real pictures",
    "followed_other": "by pictures for other drawings",
}


def evaluate_text(subject: Subject, options: argparse.Namespace, device: torch.device) -> None:
    """Score a text-to-image model on every caption group with every sampler of the options and print a table of each.

    Raises UsageError for options that do not apply.
    """
    assert isinstance(subject.parts, TextParts)
    _reject_unused(subject, options)
    chosen = TEXT_EVALUATOR_FOLDER if options.evaluator == EVALUATOR_FOLDER else options.evaluator
    facts, evaluator = load_text_evaluator(chosen, device)
    _require_matching(subject, facts)
    samplers = [
        make_sampler(subject.parts, options.solver, steps, guidance)
        for steps in options.steps or [None]
        for guidance in options.guidance_scale or [None]
    ]
    curves = _measure(subject, samplers, facts, evaluator, options, device)
    for sampler in samplers:
        assert sampler.name is not None
        print(f"{subject.name} ({sampler.name}), evaluator {curves.evaluator}\n\n{table(curves.of(sampler.name))}\n")
    if options.pictures is not None:
        print(*plots.draw_text(curves, options.pictures), sep="\n")
    if options.write and measurement.publish(options.target, text_curves.scores_of(curves, str(samplers[0].name))):
        print(measurement.UNSIGNED, file=sys.stderr)


def _measure(
    subject: Subject,
    samplers: list[Sampler],
    facts: TextEvaluatorFacts,
    evaluator: TextEvaluator,
    options: argparse.Namespace,
    device: torch.device,
) -> TextCurves:
    """The points of all samplers, written to --json after each, so that an interruption loses one."""
    assert isinstance(subject.parts, TextParts)
    curves = TextCurves(
        model=subject.name,
        version=subject.version,
        evaluator=facts.sha256[:8],
        dataset=subject.dataset,
        samples=options.samples or MOST,
        seed=options.seed,
    )
    if options.json is not None:
        curves = text_curves.resume(options.json, curves)
    channels, size, _ = facts.image_shape
    train, test = (_split(facts.dataset, options.data_dir, (channels, size), train=train) for train in (True, False))
    reference = TextReference(evaluator, pool(train, test))

    def show(sampler: Sampler, group: Group, pictures: Tensor) -> None:
        if options.pictures is not None:
            write(options.pictures / sheet_name(sampler, group), group_sheet(group, pictures))

    for measured in text_curves.measure(subject.parts, reference, samplers, curves, device, show):
        curves = measured
        if options.json is not None:
            text_curves.write_json(options.json, curves)
    return curves


def sheet_name(sampler: Sampler, group: Group) -> str:
    """The file name of a group's images: "unseen-dpmpp-2m-20-steps-guidance-3.png"."""
    return re.sub(r"[^a-z0-9.]+", "-", f"{group.name} {sampler.name}") + ".png"


def group_sheet(group: Group, pictures: Tensor) -> bytes:
    """The first images of a group as PNG: the real image, its drawing if there is one, the generated image."""
    count = min(SHEET_COLUMNS * SHEET_ROWS, len(pictures))
    drawn = [] if group.hints is None else [(255 * (1 - group.hints[:count])).to(torch.uint8)]
    return labelled_sheet(group.names[:count], [group.images[:count], *drawn, pictures[:count]], SHEET_COLUMNS)


def table(scores: Sequence[GroupScores]) -> str:
    """The scores as a Markdown table with one column per group."""
    rows = {
        "pictures": [f"{each.pictures:,}" for each in scores],
        "R@1 among 100 captions": [f"{each.recall:.3f}" for each in scores],
        "of real pictures": [f"{each.ceiling:.3f}" for each in scores],
        "Fréchet distance": [f"{each.distance:.1f}" for each in scores],
        "its floor": [f"{each.floor:.1f}" for each in scores],
        "coverage": [f"{each.coverage:.3f}" for each in scores],
        "of other real pictures": [f"{each.coverage_floor:.3f}" for each in scores],
        "copies of training pictures": [f"{each.copies:.3f}" for each in scores],
    }
    for rule in sorted(set().union(*(each.rules for each in scores))):
        rows[f"rule of {rule}"] = [f"{each.rules[rule]:.3f}" if rule in each.rules else "" for each in scores]
    for name, title in FOLLOWED.items():
        if any(getattr(each, name) is not None for each in scores):
            rows[title] = [f"{getattr(each, name):.3f}" for each in scores]
    head = ["| | " + " | ".join(each.group for each in scores) + " |", "| --- " * (len(scores) + 1) + "|"]
    return "\n".join([*head, *(f"| {name} | {' | '.join(values)} |" for name, values in rows.items())])


def _reject_unused(subject: Subject, options: argparse.Namespace) -> None:
    """Raise UsageError for options of `evaluate` that do not apply to a text-to-image model."""
    unused = {
        "--inception": options.inception is not None,
        "--unconditional": options.unconditional,
        "--against train": options.against != "test",
    }
    for option, given in unused.items():
        if given:
            raise UsageError(f"{option}: not available for a text-to-image model")
    if options.write and subject.manifest is None:
        raise UsageError(f"--write: {options.target} is a run; scores belong to a model")


def _require_matching(subject: Subject, facts: TextEvaluatorFacts) -> None:
    if (subject.dataset, subject.parts.image_shape) != (facts.dataset, facts.image_shape):
        raise EvaluationError(
            f"{subject.name} was trained on {subject.dataset}, the evaluator {facts.sha256[:8]} on {facts.dataset}: "
            "train another with python -m trainer text-evaluator and name it with --evaluator"
        )


def _split(dataset: DatasetName, data_dir: Path | None, shape: tuple[int, int], *, train: bool) -> ImageData:
    channels, size = shape
    return data.load(dataset, data_dir, train=train, image_size=size, channels=channels, captioned=True)
