"""The trainer's command line: parse, build, call. No training code lives here."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from trainer import checkpoint, data, export, processes
from trainer.checkpoint import CheckpointError
from trainer.config import OVERRIDES, SHAPES, RunConfig, load_preset
from trainer.data import DataError
from trainer.export import ExportError
from trainer.loop import Diverged, Indivisible, Interrupted, TrainingRun

EXAMPLES = """\
examples:
  python -m trainer train vae                                    the preset, into runs/vae
  python -m trainer train ddpm --epochs 40 --out runs/long       more epochs, another folder
  python -m trainer train ddpm --out runs/long --resume          go on after it was cut off
  python -m trainer train gan --dataset folder:photos --image-size 32 --channels 3 --out runs/photos
  torchrun --nproc-per-node 2 -m trainer train ddpm              two processes, or GPUs: the same losses as one
  python -m trainer export runs/vae weights/vae                  make the artefact that the service loads
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 after an error (one line), 128 + signal when stopped."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signum
    except KeyboardInterrupt:
        print("stopped before the first step", file=sys.stderr)
        return 128 + signal.SIGINT
    except (UsageError, DataError, Indivisible, Diverged, CheckpointError, ExportError, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


class UsageError(Exception):
    """Arguments that contradict each other or the config."""


PUBLISHED = tuple(name for name in SHAPES if name != "folder")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train small image generators and export them for the service.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_export(commands)
    return top


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = commands.add_parser(
        "train",
        help="train a model from its preset, or resume a run",
        description="Train a model. What is not given comes from trainer/presets/MODEL.toml.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(command=_train)
    train.add_argument("model", choices=["vae", "gan", "ddpm"])
    train.add_argument(
        "--dataset",
        action=DatasetOption,
        metavar="NAME",
        help=f"what to learn: {', '.join(PUBLISHED)}, or folder:PATH, your pictures, a sub-folder a class "
        "(default: the preset's)",
    )
    train.add_argument(
        "--data-dir",
        type=Path,
        help="folder of the data set's files (default: ./data, and a download there; for fashion-mnist Debian's "
        "package first); with --resume of a folder, where the pictures are",
    )
    train.add_argument("--image-size", type=int, choices=[28, 32, 64], help="for a folder (default: 28)")
    train.add_argument("--channels", type=int, choices=[1, 3], help="for a folder: 1 grey (default), 3 RGB")
    train.add_argument("--strict", action="store_true", help="refuse pictures that are unreadable or too small")
    train.add_argument("--epochs", type=int)
    train.add_argument("--batch-size", type=int)
    train.add_argument("--seed", type=int, help="everything random follows from it")
    train.add_argument("--precision", choices=["fp32", "bf16"])
    train.add_argument("--grid-every", type=int, metavar="N", help="write a grid of samples every N epochs")
    train.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    train.add_argument(
        "--accumulate",
        type=_positive,
        default=1,
        metavar="N",
        help="work on a batch in N micro-batches: less memory, the same numbers",
    )
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/MODEL)")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its config")


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("export", help="turn a run into an artefact for the service", epilog=EXAMPLES)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.set_defaults(command=_export)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("target", type=Path, metavar="weights/NAME", help="folder of the model; NAME is its name")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


class DatasetOption(argparse.Action):
    """A data set's name; "folder:PATH" also gives the folder, which is no part of a run's config."""

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
        if folder:
            namespace.data_dir = Path(folder)


def _train(options: argparse.Namespace) -> None:
    with processes.joined(_device(options.device)) as device:
        _train_here(options, device)


def _train_here(options: argparse.Namespace, device: torch.device) -> None:
    """What each of the processes does that train together."""
    folder = options.out or Path("runs") / options.model
    config, state = _resumed(options, folder) if options.resume else (_fresh(options, folder), None)
    with processes.first_alone():
        images = data.load(
            config.dataset,
            options.data_dir,
            image_size=config.image_size,
            channels=config.channels,
            strict=options.strict,
        )
    _tell(f"data: {images.provenance}")
    run = TrainingRun(config, images, folder, device, options.accumulate)
    if state is not None:
        run.load_state_dict(state)
    run.fit()
    _tell(f"done: {folder}. Next: python -m trainer export {folder} weights/{options.model}")


def _tell(line: str) -> None:
    if processes.rank() == 0:
        print(line)


def _overrides(options: argparse.Namespace) -> dict[str, object]:
    return {name: value for name in OVERRIDES if (value := getattr(options, name)) is not None}


def _fresh(options: argparse.Namespace, folder: Path) -> RunConfig:
    if (folder / checkpoint.FILE_NAME).exists():
        raise UsageError(f"{folder} already holds a run: add --resume to go on, or choose another --out")
    try:
        return load_preset(options.model, **_overrides(options))
    except ValidationError as failure:
        first = failure.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}: " if first["loc"] else ""
        raise UsageError(option + first["msg"].removeprefix("Value error, ")) from failure


def _resumed(options: argparse.Namespace, folder: Path) -> tuple[RunConfig, dict[str, object]]:
    config, state = checkpoint.load(folder)
    if config.family != options.model:
        raise UsageError(f"{folder} holds a {config.family}, not a {options.model}")
    for name, value in _overrides(options).items():
        if getattr(config, name) != value:
            raise UsageError(
                f"--{name.replace('_', '-')} {value}: the run in {folder} was begun with "
                f"{getattr(config, name)}, and a resumed run keeps its config"
            )
    return config, state


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here")
    return torch.device(name)


def _export(options: argparse.Namespace) -> None:
    manifest = export.export(options.run, options.target)
    print(f"{options.target}/{manifest.artifact.file}: {manifest.artifact.size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
