"""The command `compare`: all models of a folder in a table, and their quality against steps and time."""

import argparse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from service.contract.files import ContractError
from trainer.commands.evaluate import reference_of, require_samples, require_scorable
from trainer.commands.options import add_command, add_data_dir, add_device, add_evaluator, device_of, note, positive
from trainer.evaluate import compare, curves, measurement, plots
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import Evaluator, load_evaluator
from trainer.evaluate.subject import Subject, load_artefact
from trainer.run.loop import device_name

EXAMPLES = """\
examples:
  python -m trainer compare                                      the table of weights/
  python -m trainer compare --measure --write                    quality against steps and time, into docs/
  python -m trainer evaluate runs/dcgan --json dcgan.json        write a baseline ...
  python -m trainer compare --baseline dcgan.json                ... and compare the shipped models with it
"""


def add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add compare to the trainer's command line."""
    summary = "print a table of all models; measure quality against steps and time"
    command = add_command(commands, "compare", summary, EXAMPLES)
    command.set_defaults(command=_compare)
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
    add_data_dir(command)
    add_device(command)


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
    require_samples(options)
    device = device_of(options)
    evaluator = load_evaluator(options.evaluator, device)
    subjects = list(_matching(options.weights, names, evaluator, device))
    if not subjects:
        raise EvaluationError(f"--measure: the evaluator in {options.evaluator} fits no model in {options.weights}")
    reference = reference_of(evaluator, options.data_dir, "test", options.samples)
    with curves.one_thread():  # the name has the number of threads
        return curves.measure(subjects, reference, device_name(device), _skip, known)


def _matching(weights: Path, names: list[str], evaluator: Evaluator, device: torch.device) -> Iterator[Subject]:
    """The models that the evaluator can score; skipped ones are reported."""
    for name in names:
        try:
            subject = load_artefact(weights / name, device)
            require_scorable(subject, evaluator)
        except (ContractError, EvaluationError) as failure:
            _skip(name, str(failure))
        else:
            yield subject


def _skip(name: str, reason: str) -> None:
    note(f"{name} is skipped: {reason}")
