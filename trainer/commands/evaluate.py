"""The commands of evaluation: `evaluator` trains the classifier, `evaluate` scores a model, `compare` all models."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args

import torch

from service.contract.files import ContractError
from service.contract.manifest import SolverName
from trainer import data
from trainer.commands.data_report import describe
from trainer.commands.evaluate_text import MOST, add_text_evaluator, evaluate_text
from trainer.commands.options import (
    Number,
    UsageError,
    add_dataset,
    add_device,
    add_evaluator,
    add_overwrite,
    add_precision,
    add_served_precision,
    data_dir_of,
    device_of,
    positive,
    scale,
    seed,
    several,
)
from trainer.compute import precision
from trainer.config import EVALUATOR_FOLDER, SHAPES, DatasetName, Precision, dataset_option
from trainer.evaluate import compare, curves, measurement, plots
from trainer.evaluate.classifier import accuracy, chance, default_epochs, learns_rotations, train_classifier
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import FACTS_FILE, Evaluator, load_evaluator, write_evaluator
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
from trainer.evaluate.subject import Subject, load_artefact, load_subject
from trainer.models.text_parts import TextParts
from trainer.run import folder
from trainer.run.loop import device_name

#: Images for the scores of a model without text.
SAMPLES = 10_000

EXAMPLES = """\
examples:
  python -m trainer evaluator --overwrite                        train the classifier in weights/evaluator
  python -m trainer evaluate weights/vae --write                 10,000 images against the test images, into the card
  python -m trainer evaluate weights/ddpm --steps 5              another sampler than the default
  python -m trainer evaluate runs/long --against train --samples 1000   compare checkpoints
  python -m trainer evaluate runs/dcgan --json dcgan.json        write a baseline ...
  python -m trainer compare --baseline dcgan.json                ... and compare the shipped models with it
  python -m trainer compare --measure --write                    quality against steps and time, into docs/
  python -m trainer evaluate runs/emoji --guidance-scale 1,2,3,5,8 --json emoji.json --pictures emoji   prompts
  python -m trainer evaluator --dataset folder:photos --image-size 32 --channels 3 --out runs/evaluator
  python -m trainer evaluate runs/pets --evaluator runs/evaluator --data-dir photos   your own images
"""


def add_evaluation(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add evaluator, text-evaluator, evaluate and compare to the trainer's command line."""
    _add_evaluator(commands)
    add_text_evaluator(commands)
    _add_evaluate(commands)
    _add_compare(commands)


def _add_evaluator(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(commands, "evaluator", _evaluator, "train the classifier on whose features all scores are based")
    _add_data(command)
    add_dataset(command, default="fashion-mnist")
    command.add_argument("--epochs", type=positive, help="(default: 14, or more if an epoch has few steps)")
    command.add_argument("--seed", type=seed, default=0)
    add_precision(command)
    command.add_argument("--out", type=Path, default=EVALUATOR_FOLDER, help="folder to write (default: %(default)s)")
    add_overwrite(command, "replace the evaluator in --out; scores of different evaluators are not comparable")


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(commands, "evaluate", _evaluate, "score the images of a model or a run")
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
    _add_data(command)


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(
        commands, "compare", _compare, "print a table of all models; measure quality against steps and time"
    )
    command.add_argument("weights", type=Path, nargs="?", default=Path("weights"), help="(default: weights)")
    command.add_argument(
        "--baseline", type=Path, metavar="FILE", help="output of evaluate --json; distances are relative to it"
    )
    command.add_argument(
        "--measure", action="store_true", help="measure quality against steps for new weights, and times for all"
    )
    command.add_argument("--samples", type=positive, default=2000, help="images per point (default: %(default)s)")
    command.add_argument("--docs", type=Path, default=Path("docs"), help="folder of quality.json (default: docs)")
    command.add_argument("--write", action="store_true", help="write measurements, table and plots to --docs")
    add_evaluator(command)
    _add_data(command)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    summary: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".", epilog=EXAMPLES)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.set_defaults(command=run)
    return command


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", type=Path, help="folder of the data set (default: as for train)")
    add_device(command)


def _evaluator(options: argparse.Namespace) -> None:
    if (options.out / FACTS_FILE).exists() and not options.overwrite:
        raise UsageError(f"{options.out} already contains an evaluator: choose another --out, or add --overwrite")
    with folder.locked(options.out):
        _train_evaluator(options, device_of(options))


def _train_evaluator(options: argparse.Namespace, device: torch.device) -> None:
    channels, size = _shape(options)
    data_dir = data_dir_of(options)
    train, test = (_split(options.dataset, data_dir, size, channels, train=train) for train in (True, False))
    print(*describe(train), sep="\n")
    if learns_rotations(train):
        print("fewer than two classes: the evaluator learns to predict rotations by 90 degrees")
    started, epochs = time.monotonic(), options.epochs or default_epochs(len(train.images))
    arithmetic = _precision(options, device)
    network = train_classifier(train, epochs, options.seed, device, arithmetic)
    shape = f" --image-size {size} --channels {channels}" if options.dataset == "folder" else ""
    settings = f"--dataset {dataset_option(options.dataset)}{shape} --epochs {epochs} --seed {options.seed}"
    settings += f" --precision {arithmetic}"
    facts = write_evaluator(
        options.out,
        network,
        test,
        accuracy(network, test),
        command=f"python -m trainer evaluator {settings}",
        epochs=epochs,
        seconds=round(time.monotonic() - started, 1),
        device=device_name(device),
    )
    rotated = " in all four rotations" if learns_rotations(test) else ""
    print(f"{options.out}/{facts.file}: {facts.accuracy:.2%} of {facts.test_images:,} test images{rotated} correct")
    if facts.accuracy < chance(test) + LEARNT * (1 - chance(test)):
        _note(
            f"warning: chance is {chance(test):.2%}, so its features say little about these images: "
            "try more --epochs or more images"
        )


#: Warn below this fraction of the way from chance to perfect accuracy.
LEARNT = 0.2


def _precision(options: argparse.Namespace, device: torch.device) -> Precision:
    """The precision of the options, or the faster one on this machine."""
    if options.precision is not None:
        requested: Precision = options.precision
        return requested
    choice = precision.fastest(device)
    print(f"precision: {choice}", flush=True)
    return choice.precision


def _evaluate(options: argparse.Namespace) -> None:
    device = device_of(options)
    _require_samples(options)
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
    _require_matching(subject, evaluator)
    sampler = _sampler(subject, options)
    reference = _reference(evaluator, options.data_dir, options.against, options.samples or SAMPLES)
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


def _compare(options: argparse.Namespace) -> None:
    manifests, skipped = compare.read_manifests(options.weights)
    for name, reason in skipped.items():
        _skip(name, reason)
    baseline = measurement.read_json(options.baseline) if options.baseline else None
    path = options.docs / curves.FILE_NAME
    measured = curves.read_json(path) if path.exists() and not options.measure else None
    if options.measure:
        names = [manifest.name for manifest in manifests if "generate" in manifest.capabilities]
        for measured in _measure(options, names, _known(path)):
            if options.write:
                curves.write_json(path, measured)  # after each model: an interruption loses one
    table = compare.table(manifests, measured, baseline)
    print(table)
    if options.write:
        compare.write_table(options.docs / "QUALITY.md", table)
    if options.write and measured is not None:
        plots.draw(measured, options.docs / "pictures")


def _known(path: Path) -> curves.Curves | None:
    """Earlier measurements, or None if they cannot be read: they are about to be replaced."""
    with suppress(EvaluationError):
        return curves.read_json(path)
    return None


def _measure(options: argparse.Namespace, names: list[str], known: curves.Curves | None) -> Iterator[curves.Curves]:
    _require_samples(options)
    device = device_of(options)
    evaluator = load_evaluator(options.evaluator, device)
    subjects = list(_matching(options.weights, names, evaluator, device))
    if not subjects:
        raise EvaluationError(f"--measure: the evaluator in {options.evaluator} fits no model in {options.weights}")
    reference = _reference(evaluator, options.data_dir, "test", options.samples)
    with curves.one_thread():  # the name has the number of threads
        return curves.measure(subjects, reference, device_name(device), _skip, known)


def _matching(weights: Path, names: list[str], evaluator: Evaluator, device: torch.device) -> Iterator[Subject]:
    """The models that the evaluator can score; skipped ones are reported."""
    for name in names:
        try:
            subject = load_artefact(weights / name, device)
            _require_matching(subject, evaluator)
        except (ContractError, EvaluationError) as failure:
            _skip(name, str(failure))
        else:
            yield subject


def _skip(name: str, reason: str) -> None:
    _note(f"{name} is skipped: {reason}")


def _note(line: str) -> None:
    """Print to stderr, because results go to stdout."""
    print(line, file=sys.stderr)


def _require_samples(options: argparse.Namespace) -> None:
    if options.samples is not None and options.samples < LEAST_PICTURES:
        raise EvaluationError(f"--samples {options.samples}: at least {LEAST_PICTURES} are needed")


def _require_matching(subject: Subject, evaluator: Evaluator) -> None:
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


def _reference(evaluator: Evaluator, data_dir: Path | None, against: str, samples: int) -> Reference:
    dataset, (channels, size, _) = evaluator.facts.dataset, evaluator.facts.image_shape
    splits = [_split(dataset, data_dir, size, channels, train=split) for split in SPLITS[against]]
    for split in splits:
        for line in describe(split):
            _note(line)
    train, *test = splits
    reference = (
        against_test(evaluator, test[0], train, samples) if test else against_training(evaluator, train, samples)
    )
    if reference.samples < samples:
        _note(f"note: {reference.samples:,} images are generated, not {samples:,}: there are no more real ones")
    if reference.warning:
        _note(f"warning: {reference.warning}")
    return reference


def _split(dataset: DatasetName, data_dir: Path | None, size: int, channels: int, *, train: bool) -> data.ImageData:
    return data.load(dataset, data_dir, train=train, image_size=size, channels=channels)


def _shape(options: argparse.Namespace) -> tuple[int, int]:
    """Channels and size of the images."""
    channels, size = SHAPES[options.dataset]
    if options.dataset != "folder" and (options.channels or options.image_size):
        raise UsageError("--image-size and --channels are only for a folder")
    return options.channels or channels, options.image_size or size
