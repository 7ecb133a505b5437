"""Options that several commands share, and the error of invalid arguments."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch

from trainer.config import EVALUATOR_FOLDER, SHAPES, Precision

Number = TypeVar("Number", int, float)

PUBLISHED = tuple(name for name in SHAPES if name != "folder")


class UsageError(Exception):
    """Arguments that conflict with each other, the config or the machine."""


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """A new command whose help ends with ``examples``."""
    command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".", epilog=examples)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    return command


class DatasetOption(argparse.Action):
    """Parses a data set's name; "folder:PATH" also sets ``folder``, which is not part of the config."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Raises ArgumentError for an unknown name or a folder without a path."""
        name, _, folder = str(values).partition(":")
        if not (name == "folder" and folder) and values not in PUBLISHED:
            raise argparse.ArgumentError(self, f"{values!r} is not one of {', '.join(PUBLISHED)}, folder:PATH")
        namespace.dataset = name
        namespace.folder = Path(folder) if folder else None


def add_dataset(command: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add --dataset, --image-size and --channels; without ``default`` the preset selects the data set."""
    command.add_argument(
        "--dataset",
        action=DatasetOption,
        default=default,
        metavar="NAME",
        help=f"{', '.join(PUBLISHED)}, or folder:PATH for your own images, one sub-folder per class "
        f"(default: {default or 'as in the preset'})",
    )
    command.add_argument("--image-size", type=int, choices=[28, 32, 64, 96, 128], help="for a folder (default: 28)")
    command.add_argument("--channels", type=int, choices=[1, 3], help="for a folder: 1 for grey (default), 3 for RGB")


def data_dir_of(options: argparse.Namespace) -> Path | None:
    """The folder named by --dataset or --data-dir. Raises UsageError when they differ."""
    folder: Path | None = getattr(options, "folder", None)
    if folder and options.data_dir not in (None, folder):
        raise UsageError(f"--data-dir {options.data_dir} conflicts with --dataset folder:{folder}")
    return folder or options.data_dir


def add_data_dir(command: argparse.ArgumentParser) -> None:
    """Add --data-dir."""
    command.add_argument("--data-dir", type=Path, help="folder of the data set (default: as for train)")


def add_device(command: argparse.ArgumentParser) -> None:
    """Add --device."""
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


def add_evaluator(command: argparse.ArgumentParser, default: Path = EVALUATOR_FOLDER) -> None:
    """Add --evaluator."""
    command.add_argument(
        "--evaluator",
        type=Path,
        default=default,
        metavar="FOLDER",
        help="folder of the classifier that scores images (default: %(default)s)",
    )


def add_precision(command: argparse.ArgumentParser) -> None:
    """Add --precision, by default the faster one on this machine."""
    command.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="precision of forward passes in training (default: the faster one)",
    )


def add_served_precision(command: argparse.ArgumentParser) -> None:
    """Add --precision of a model that is evaluated."""
    command.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the denoising network, as GENSERVE_PRECISION (default: float32)",
    )


def add_overwrite(command: argparse._ActionsContainer, what: str) -> None:
    """Add --overwrite with the help text ``what``."""
    command.add_argument("--overwrite", action="store_true", help=what)


def rate(text: str) -> float:
    """A finite number above 0. argparse reports the ValueError."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def seed(text: str) -> int:
    """A whole number from 0, below 2**32. argparse reports the ValueError."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise ValueError
    return number


def scale(text: str) -> float:
    """A finite number from 0. argparse reports the ValueError."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError
    return number


def positive(text: str) -> int:
    """A whole number from 1. argparse reports the ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def several(kind: Callable[[str], Number]) -> Callable[[str], list[Number]]:
    """A type of options with values separated by commas, each of ``kind``."""

    def values(text: str) -> list[Number]:
        return list(dict.fromkeys(kind(value) for value in text.split(",")))

    values.__name__ = f"{kind.__name__} list"
    return values


def device_of(options: argparse.Namespace) -> torch.device:
    """The device of --device. Raises UsageError when it is not available."""
    available = torch.cuda.is_available()
    if options.device == "cuda" and not available:
        raise UsageError("--device cuda: torch finds no CUDA device")
    return torch.device("cuda" if options.device != "cpu" and available else "cpu")


def note(line: str) -> None:
    """Print to stderr, because results go to stdout."""
    print(line, file=sys.stderr)
