"""The options that several commands have, and the error of all that cannot be so."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from trainer.config import EVALUATOR_FOLDER, SHAPES, Precision

THE_PRESETS = "the preset's"
PUBLISHED = tuple(name for name in SHAPES if name != "folder")


class UsageError(Exception):
    """Arguments that contradict each other, the config or this machine."""


class DatasetOption(argparse.Action):
    """A data set's name; "folder:PATH" also gives ``folder``, which is no part of a run's config."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Raises ArgumentError, which argparse prints, for an unknown name and a folder without a path."""
        name, _, folder = str(values).partition(":")
        if not (name == "folder" and folder) and values not in PUBLISHED:
            raise argparse.ArgumentError(self, f"{values!r} is none of {', '.join(PUBLISHED)}, folder:PATH")
        namespace.dataset = name
        namespace.folder = Path(folder) if folder else None


def add_dataset(command: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add --dataset, and the shape of a folder's pictures; without ``default`` a preset says which data set."""
    command.add_argument(
        "--dataset",
        action=DatasetOption,
        default=default,
        metavar="NAME",
        help=f"what to learn: {', '.join(PUBLISHED)}, or folder:PATH, your pictures, a sub-folder a class "
        f"(default: {default or THE_PRESETS})",
    )
    command.add_argument("--image-size", type=int, choices=[28, 32, 64], help="for a folder (default: 28)")
    command.add_argument("--channels", type=int, choices=[1, 3], help="for a folder: 1 grey (default), 3 RGB")


def data_dir_of(options: argparse.Namespace) -> Path | None:
    """Where --dataset or --data-dir say that the data set lies. Raises UsageError when they contradict each other."""
    folder: Path | None = getattr(options, "folder", None)
    if folder and options.data_dir not in (None, folder):
        raise UsageError(f"--data-dir {options.data_dir}: --dataset says folder:{folder}")
    return folder or options.data_dir


def add_device(command: argparse.ArgumentParser) -> None:
    """Add --device."""
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


def add_evaluator(command: argparse.ArgumentParser) -> None:
    """Add --evaluator."""
    command.add_argument(
        "--evaluator",
        type=Path,
        default=EVALUATOR_FOLDER,
        metavar="FOLDER",
        help="the classifier that pictures are judged by (default: %(default)s)",
    )


def add_precision(command: argparse.ArgumentParser) -> None:
    """Add --precision; left out, the faster one on this machine is chosen."""
    command.add_argument(
        "--precision", choices=get_args(Precision), help="arithmetic in training (default: the faster on this machine)"
    )


def add_overwrite(command: argparse._ActionsContainer, what: str) -> None:
    """Add --overwrite, which does ``what``."""
    command.add_argument("--overwrite", action="store_true", help=what)


def rate(text: str) -> float:
    """A finite number above 0; argparse tells of the ValueError."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def seed(text: str) -> int:
    """A whole number from 0, below 2**32; argparse tells of the ValueError."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise ValueError
    return number


def scale(text: str) -> float:
    """A finite number from 0; argparse tells of the ValueError."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError
    return number


def positive(text: str) -> int:
    """A whole number from 1; argparse tells of the ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def device_of(options: argparse.Namespace) -> torch.device:
    """What --device names. Raises UsageError when there is none."""
    available = torch.cuda.is_available()
    if options.device == "cuda" and not available:
        raise UsageError("--device cuda: torch finds no CUDA device here")
    return torch.device("cuda" if options.device != "cpu" and available else "cpu")
