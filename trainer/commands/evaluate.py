"""The command `evaluate`, which scores the images of a model or a run."""

import argparse
import sys
from pathlib import Path
from typing import get_args

import torch

from service.contract.manifest import SolverName
from trainer import data
from trainer.commands.data_report import describe
from trainer.commands.evaluate_text import MOST, evaluate_text
from trainer.commands.options import (
    Number,
    UsageError,
    add_command,
    add_data_dir,
    add_device,
    add_evaluator,
    add_served_precision,
    device_of,
    note,
    positive,
    scale,
    seed,
    several,
)
from trainer.evaluate import measurement
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import Evaluator, load_evaluator
from trainer.evaluate.inception import fid
from trainer.evaluate.measurement import measurement_of
from trainer.evaluate.pictures import Sampler, draw, labels_like, make_sampler
from trainer.evaluate.precision import rounded
from trainer.evaluate.quality import (
    LEAST_PICTURES,
    Reference,
    against_test,
    against_training,
    evaluate_pictures,
    require_classes,
    require_matching,
)
from trainer.evaluate.subject import Subject, load_subject
from trainer.models.text_parts import TextParts

#: Images for the scores of a model without text.
SAMPLES = 10_000

EXAMPLES = """\
examples:
  python -m trainer evaluate weights/vae --write                 10,000 images against the test images, into the card
  python -m trainer evaluate weights/ddpm --steps 5              another sampler than the default
  python -m trainer evaluate runs/long --against train --samples 1000   compare checkpoints
  python -m trainer evaluate runs/dcgan --json dcgan.json        a baseline for compare
  python -m trainer evaluate runs/emoji --guidance-scale 1,2,3,5,8 --json emoji.json --pictures emoji   prompts
  python -m trainer evaluate runs/pets --evaluator runs/evaluator --data-dir photos   your own images
"""


def add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add evaluate to the trainer's command line."""
    command = add_command(commands, "evaluate", "score the images of a model or a run", EXAMPLES)
    command.set_defaults(command=_evaluate)
    command.add_argument("target", type=Path, metavar="weights/NAME|RUN", help="folder of a model or of a run")
    command.add_argument(
        "--samples",
        type=positive,
        help=f"number of images, limited by the number of real ones (default: {SAMPLES}; for a text-to-image model "
        f"{MOST} for each group of captions)",
    )
    command.add_argument(
        "--seed", type=seed, default=0, help="seed of the first image; image i has seed + i (default: 0)"
    )
    listed = "; several for a text-to-image model, as in 1,3,5"
    command.add_argument("--steps", type=several(positive), help=f"solver steps (default: the model's){listed}")
    command.add_argument("--solver", choices=get_args(SolverName), help="(default: the model's)")
    command.add_argument("--unconditional", action="store_true", help="generate without a class")
    command.add_argument(
        "--guidance-scale", type=several(scale), help=f"1 means no guidance (default: the model's){listed}"
    )
    add_served_precision(command)
    command.add_argument(
        "--against",
        choices=["test", "train"],
        default="test",
        help="test images for published scores, training images for selection (default: test)",
    )
    command.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the scores to FILE; those of the same text-to-image model in it are kept and not measured again",
    )
    command.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="for a text-to-image model: write plots and generated images below real ones to FOLDER",
    )
    command.add_argument(
        "--write", action="store_true", help="write the scores to the model's manifest.json and card.md"
    )
    command.add_argument("--inception", type=Path, metavar="FILE", help="TorchScript Inception network, to add the FID")
    add_evaluator(command)
    add_data_dir(command)
    add_device(command)


def _evaluate(options: argparse.Namespace) -> None:
    device = device_of(options)
    require_samples(options)
    if options.write and options.against != "test":
        raise EvaluationError("--write: published scores are against the test images, so omit --against")
    subject = load_subject(options.target, device)
    if options.precision == "bfloat16":
        subject = rounded(subject, device)
    if isinstance(subject.parts, TextParts):
        evaluate_text(subject, options, device)
        return
    if options.pictures is not None:
        raise UsageError("--pictures: only for a text-to-image model")
    evaluator = load_evaluator(options.evaluator, device)
    if options.write and subject.manifest is None:
        raise EvaluationError(f"--write: {options.target} is a run; scores belong to a model, so export it first")
    require_scorable(subject, evaluator)
    sampler = _sampler(subject, options)
    reference = reference_of(evaluator, options.data_dir, options.against, options.samples or SAMPLES)
    labels = labels_like(reference.labels, reference.samples)
    if options.unconditional:
        labels = torch.full_like(labels, subject.parts.classes)
    pictures = draw(subject.parts, labels, sampler, first_seed=options.seed, device=device)
    quality = evaluate_pictures(pictures, reference)
    measured = measurement_of(
        quality,
        reference.floor,
        model=subject.name,
        reference=reference.name,
        evaluator=evaluator.facts.version,
        samples=reference.samples,
        first_seed=options.seed,
        sampler=", ".join(filter(None, [sampler.name, options.unconditional and "no class"])) or None,
    )
    if options.inception is not None:
        figure = fid(reference.pictures, pictures, options.inception)
        measured = measured.model_copy(update={"scores": {**measured.scores, "fid": figure}})
    print(measurement.table(measured))
    if options.json is not None:
        measurement.write_json(options.json, measured)
    if options.write and measurement.publish(options.target, measurement.scores(measured)):
        print(measurement.UNSIGNED, file=sys.stderr)


def require_samples(options: argparse.Namespace) -> None:
    """Raise EvaluationError when --samples are too few for the scores."""
    if options.samples is not None and options.samples < LEAST_PICTURES:
        raise EvaluationError(f"--samples {options.samples}: at least {LEAST_PICTURES} are needed")


def require_scorable(subject: Subject, evaluator: Evaluator) -> None:
    """Raise EvaluationError when ``evaluator`` knows other data, another shape or other classes than ``subject``."""
    if subject.dataset != evaluator.facts.dataset:
        raise EvaluationError(
            f"{subject.name} was trained on {subject.dataset}, the evaluator {evaluator.facts.version} on "
            f"{evaluator.facts.dataset}: train one with `{_evaluator_command(subject)}` and name it with --evaluator"
        )
    require_matching(subject.parts, evaluator)
    require_classes(evaluator, subject.class_names, f"{subject.name} was trained on")


def _evaluator_command(subject: Subject) -> str:
    channels, size, _ = subject.parts.image_shape
    own = subject.dataset == "folder"
    dataset = f"folder:PATH --image-size {size} --channels {channels}" if own else subject.dataset
    return f"python -m trainer evaluator --dataset {dataset} --out runs/evaluator"


def _sampler(subject: Subject, options: argparse.Namespace) -> Sampler:
    values = {"--steps": options.steps, "--solver": options.solver, "--guidance-scale": options.guidance_scale}
    given = [option for option, value in values.items() if value is not None]
    if subject.parts.diffusion is None and given:
        raise EvaluationError(f"{given[0]}: {subject.name} generates in one step and has no solver")
    steps, guidance = (_only(option, values[option]) for option in ("--steps", "--guidance-scale"))
    return make_sampler(subject.parts, options.solver, steps, guidance)


def _only(option: str, values: list[Number] | None) -> Number | None:
    if values is not None and len(values) > 1:
        raise UsageError(f"{option}: several values are only for a text-to-image model")
    return values[0] if values else None


#: The splits that each reference needs (True: training), the training split first.
SPLITS = {"train": (True,), "test": (True, False)}


def reference_of(evaluator: Evaluator, data_dir: Path | None, against: str, samples: int) -> Reference:
    """The real pictures, of the split ``against``, that at most ``samples`` generated ones are compared with."""
    dataset, (channels, size, _) = evaluator.facts.dataset, evaluator.facts.image_shape
    splits = [
        data.load(dataset, data_dir, train=split, image_size=size, channels=channels) for split in SPLITS[against]
    ]
    for split in splits:
        for line in describe(split):
            note(line)
    train, *test = splits
    reference = (
        against_test(evaluator, test[0], train, samples) if test else against_training(evaluator, train, samples)
    )
    if reference.samples < samples:
        note(f"note: {reference.samples:,} images are generated, not {samples:,}: there are no more real ones")
    if reference.warning:
        note(f"warning: {reference.warning}")
    return reference
