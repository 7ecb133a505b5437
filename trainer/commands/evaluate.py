"""The commands that measure: `evaluator` trains the judge, `evaluate` scores a model, `compare` sets all in a row."""

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
from trainer.commands.options import (
    UsageError,
    add_dataset,
    add_device,
    add_evaluator,
    add_overwrite,
    add_precision,
    data_dir_of,
    device_of,
    positive,
    scale,
    seed,
)
from trainer.compute import precision
from trainer.config import EVALUATOR_FOLDER, SHAPES, DatasetName, Precision, dataset_option
from trainer.evaluate import compare, curves, measurement, plots
from trainer.evaluate.classifier import accuracy, chance, default_epochs, learns_turns, train_classifier
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import FACTS_FILE, Evaluator, load_evaluator, write_evaluator
from trainer.evaluate.inception import fid
from trainer.evaluate.measurement import measurement_of
from trainer.evaluate.pictures import Sampler, draw, labels_like, make_sampler
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
from trainer.run import folder
from trainer.run.loop import device_name

EXAMPLES = """\
examples:
  python -m trainer evaluator --overwrite                        train the classifier in weights/evaluator
  python -m trainer evaluate weights/vae --write                 10,000 pictures against the test images, into the card
  python -m trainer evaluate weights/ddpm --steps 5              another sampler than the default
  python -m trainer evaluate runs/long --against train --samples 1000   choose between checkpoints
  python -m trainer evaluate runs/dcgan --json dcgan.json        keep a baseline ...
  python -m trainer compare --baseline dcgan.json                ... and set the shipped models beside it
  python -m trainer compare --measure --write                    quality against steps and time, into docs/
  python -m trainer evaluator --dataset folder:photos --image-size 32 --channels 3 --out runs/evaluator
  python -m trainer evaluate runs/pets --evaluator runs/evaluator --data-dir photos   pictures of your own
"""


def add_evaluation(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add evaluator, evaluate and compare to the trainer's command line."""
    _add_evaluator(commands)
    _add_evaluate(commands)
    _add_compare(commands)


def _add_evaluator(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(commands, "evaluator", _evaluator, "train the classifier whose features are the yardstick")
    _add_data(command)
    add_dataset(command, default="fashion-mnist")
    command.add_argument("--epochs", type=positive, help="(default: 14, more where an epoch has few steps)")
    command.add_argument("--seed", type=seed, default=0)
    add_precision(command)
    command.add_argument("--out", type=Path, default=EVALUATOR_FOLDER, help="folder to write (default: %(default)s)")
    add_overwrite(command, "replace the evaluator in --out: scores by the one before cannot be compared with its own")


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(commands, "evaluate", _evaluate, "score the pictures of a model or of a run")
    command.add_argument("target", type=Path, metavar="weights/NAME|RUN", help="folder of a model or of a run")
    command.add_argument(
        "--samples",
        type=positive,
        default=10_000,
        help="pictures to draw, no more than there are real ones to compare them with (default: %(default)s)",
    )
    command.add_argument("--seed", type=seed, default=0, help="of the first picture; the others follow (default: 0)")
    command.add_argument("--steps", type=positive, help="solver steps (default: the model's)")
    command.add_argument("--solver", choices=get_args(SolverName), help="(default: the model's)")
    command.add_argument("--unconditional", action="store_true", help="pictures of no class")
    command.add_argument("--guidance-scale", type=scale, help="1 is none (default: the model's)")
    command.add_argument(
        "--against",
        choices=["test", "train"],
        default="test",
        help="test images for the published figure, training images to choose by (default: test)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="keep the scores in FILE")
    command.add_argument(
        "--write", action="store_true", help="put the scores into the model's manifest.json and card.md"
    )
    command.add_argument("--inception", type=Path, metavar="FILE", help="a TorchScript Inception network: adds the FID")
    add_evaluator(command)
    _add_data(command)


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(commands, "compare", _compare, "one table of all models, and quality against steps and time")
    command.add_argument("weights", type=Path, nargs="?", default=Path("weights"), help="(default: weights)")
    command.add_argument("--baseline", type=Path, metavar="FILE", help="scores of evaluate --json that count as 1.00")
    command.add_argument(
        "--measure", action="store_true", help="measure quality against steps, of weights not measured yet, and times"
    )
    command.add_argument("--samples", type=positive, default=2000, help="pictures a point (default: %(default)s)")
    command.add_argument("--docs", type=Path, default=Path("docs"), help="where quality.json lies (default: docs)")
    command.add_argument(
        "--write", action="store_true", help="write what was measured, the table and the plots into --docs"
    )
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
        raise UsageError(f"{options.out} already holds an evaluator: choose another --out, or add --overwrite")
    with folder.claimed(options.out):
        _train_evaluator(options, device_of(options))


def _train_evaluator(options: argparse.Namespace, device: torch.device) -> None:
    channels, size = _shape(options)
    data_dir = data_dir_of(options)
    train, test = (_split(options.dataset, data_dir, size, channels, train=train) for train in (True, False))
    print(*describe(train), sep="\n")
    if learns_turns(train):
        print("without two classes to tell apart, it learns by how many quarters a picture is turned")
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
    turned = " in all four turns" if learns_turns(test) else ""
    print(f"{options.out}/{facts.file}: {facts.accuracy:.2%} of {facts.test_images:,} test images{turned} right")
    if facts.accuracy < chance(test) + LEARNT * (1 - chance(test)):
        _note(
            f"warning: guessing gives {chance(test):.2%}, so what it sees says little of these pictures: "
            "try more --epochs, or more pictures"
        )


#: Of the way from guessing to knowing, what an evaluator must have gone to be of use.
LEARNT = 0.2


def _precision(options: argparse.Namespace, device: torch.device) -> Precision:
    """The one asked for, or the faster on this machine."""
    if options.precision is not None:
        asked: Precision = options.precision
        return asked
    choice = precision.measured(device)
    print(f"precision: {choice}", flush=True)
    return choice.precision


def _evaluate(options: argparse.Namespace) -> None:
    device = device_of(options)
    _require_samples(options)
    if options.write and options.against != "test":
        raise EvaluationError("--write: a published figure is against the test images, so leave --against out")
    evaluator = load_evaluator(options.evaluator, device)
    subject = load_subject(options.target, device)
    if options.write and subject.manifest is None:
        raise EvaluationError(f"--write: {options.target} is a run; export it first, scores belong to a model")
    _require_matching(subject, evaluator)
    sampler = _sampler(subject, options)
    reference = _reference(evaluator, options.data_dir, options.against, options.samples)
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
    if options.write:
        measurement.publish(options.target, measured)


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
    """What was measured before, if it can be read: it is about to be written anew."""
    with suppress(EvaluationError):
        return curves.read_json(path)
    return None


def _measure(options: argparse.Namespace, names: list[str], known: curves.Curves | None) -> Iterator[curves.Curves]:
    _require_samples(options)
    device = device_of(options)
    evaluator = load_evaluator(options.evaluator, device)
    subjects = list(_matching(options.weights, names, evaluator, device))
    if not subjects:
        raise EvaluationError(f"--measure: no model in {options.weights} can be measured by {options.evaluator}")
    reference = _reference(evaluator, options.data_dir, "test", options.samples)
    return curves.measure(subjects, reference, device_name(device), _skip, known)


def _matching(weights: Path, names: list[str], evaluator: Evaluator, device: torch.device) -> Iterator[Subject]:
    """The models that the evaluator can score; the others are named with the reason."""
    for name in names:
        try:
            subject = load_artefact(weights / name, device)
            _require_matching(subject, evaluator)
        except (ContractError, EvaluationError) as failure:
            _skip(name, str(failure))
        else:
            yield subject


def _skip(name: str, reason: str) -> None:
    _note(f"{name} is left out: {reason}")


def _note(line: str) -> None:
    """Beside the results, which go to stdout."""
    print(line, file=sys.stderr)


def _require_samples(options: argparse.Namespace) -> None:
    if options.samples < LEAST_PICTURES:
        raise EvaluationError(f"--samples {options.samples}: at least {LEAST_PICTURES} can be scored")


def _require_matching(subject: Subject, evaluator: Evaluator) -> None:
    if subject.dataset != evaluator.facts.dataset:
        raise EvaluationError(
            f"{subject.name} was trained on {subject.dataset}, the evaluator {evaluator.facts.version} on "
            f"{evaluator.facts.dataset}: name another with --evaluator, which "
            f"`{_evaluator_command(subject)}` makes"
        )
    require_matching(subject.parts, evaluator)
    require_classes(evaluator, subject.class_names, f"{subject.name} was trained on")


def _evaluator_command(subject: Subject) -> str:
    channels, size, _ = subject.parts.image_shape
    own = subject.dataset == "folder"
    dataset = f"folder:PATH --image-size {size} --channels {channels}" if own else subject.dataset
    return f"python -m trainer evaluator --dataset {dataset} --out runs/evaluator"


def _sampler(subject: Subject, options: argparse.Namespace) -> Sampler:
    asked = {"--steps": options.steps, "--solver": options.solver, "--guidance-scale": options.guidance_scale}
    given = [option for option, value in asked.items() if value is not None]
    if subject.parts.diffusion is None and given:
        raise EvaluationError(f"{given[0]}: {subject.name} makes a picture at once and has no solver")
    return make_sampler(subject.parts, options.solver, options.steps, options.guidance_scale)


#: Which splits each reference needs: the training split first.
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
        _note(f"note: {reference.samples:,} pictures are drawn, not {samples:,}: as many real ones are left to compare")
    if reference.warning:
        _note(f"warning: {reference.warning}")
    return reference


def _split(dataset: DatasetName, data_dir: Path | None, size: int, channels: int, *, train: bool) -> data.ImageData:
    return data.load(dataset, data_dir, train=train, image_size=size, channels=channels)


def _shape(options: argparse.Namespace) -> tuple[int, int]:
    """Channels and pixels of the pictures asked for."""
    channels, size = SHAPES[options.dataset]
    if options.dataset != "folder" and (options.channels or options.image_size):
        raise UsageError("--image-size and --channels are for a folder's pictures")
    return options.channels or channels, options.image_size or size
