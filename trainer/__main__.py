"""The trainer's command line: parse, build, call. No training code lives here."""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from service.contract.files import ContractError
from trainer import checkpoint, data, export, processes
from trainer.advice import before_training
from trainer.config import OVERRIDES, RunConfig, load_preset, presets
from trainer.data import DataError, ImageData
from trainer.evaluate.commands import add_commands
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.progress import TrainingDistance, training_distance
from trainer.generate import NotFinite
from trainer.loop import Diverged, Indivisible, Interrupted, TrainingRun
from trainer.options import (
    EVALUATOR_FOLDER,
    UsageError,
    add_dataset,
    add_device,
    add_evaluator,
    data_dir_of,
    device_of,
    positive,
)
from trainer.start import Start, StartError, load_start

EXAMPLES = """\
examples:
  python -m trainer train vae                                    the preset, into runs/vae
  python -m trainer train ddpm --epochs 40 --out runs/long       more epochs, another folder
  python -m trainer train ddpm --out runs/long --resume          go on after it was cut off
  python -m trainer train few-step --from weights/ddpm           begin with a model's network
  python -m trainer train gan --dataset folder:photos --image-size 32 --channels 3 --out runs/photos
  torchrun --nproc-per-node 2 -m trainer train ddpm              two processes, or GPUs: the same losses as one
  python -m trainer export runs/vae weights/vae                  make the artefact that the service loads
  python -m trainer evaluate weights/vae                         score it; evaluate --help says more
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
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except FAILURES as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


#: What ends a command with one line: the user can mend it.
FAILURES = (
    checkpoint.CheckpointError,
    ContractError,
    DataError,
    Diverged,
    EvaluationError,
    export.ExportError,
    Indivisible,
    NotFinite,
    OSError,
    StartError,
    UsageError,
)


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
    add_commands(commands)
    return top


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = commands.add_parser(
        "train",
        help="train a model from its preset, or resume a run",
        description="Train a model. What is not given comes from trainer/presets/PRESET.toml.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(command=_train)
    train.add_argument("preset", choices=presets(), metavar="PRESET", help=f"one of {', '.join(presets())}")
    train.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="FOLDER",
        help="model or finished run to begin with: ldm from an autoencoder, few-step from a ddpm",
    )
    add_dataset(train)
    train.add_argument(
        "--data-dir",
        type=Path,
        help="folder of the data set's files (default: ./data, and a download there; for fashion-mnist Debian's "
        "package first); with --resume of a folder, where the pictures are",
    )
    train.add_argument("--strict", action="store_true", help="refuse pictures that are unreadable or too small")
    train.add_argument("--epochs", type=int)
    train.add_argument("--batch-size", type=int)
    train.add_argument("--seed", type=int, help="everything random follows from it")
    train.add_argument("--precision", choices=["fp32", "bf16"])
    train.add_argument("--grid-every", type=int, metavar="N", help="write a grid of samples every N epochs")
    add_evaluator(train)
    add_device(train)
    train.add_argument(
        "--accumulate",
        type=positive,
        default=1,
        metavar="N",
        help="work on a batch in N micro-batches: less memory, the same numbers",
    )
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET)")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its config")


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("export", help="turn a run into an artefact for the service", epilog=EXAMPLES)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.set_defaults(command=_export)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("--data-dir", type=Path, help="folder of what the run was trained on, as for train")
    command.add_argument("target", type=Path, metavar="weights/NAME", help="folder of the model; NAME is its name")


def _train(options: argparse.Namespace) -> None:
    with processes.joined(device_of(options)) as device:
        _train_here(options, device)


def _train_here(options: argparse.Namespace, device: torch.device) -> None:
    """What each of the processes does that train together."""
    folder = options.out or Path("runs") / options.preset
    begun = load_start(options.start) if options.start and not options.resume else None
    config, state = _resumed(options, folder) if options.resume else (_fresh(options, folder, begun), None)
    with processes.first_alone():
        images = _images(config, data_dir_of(options), strict=options.strict)
    for line in before_training(config, images, resumed=options.resume):
        _tell(line)
    if begun is not None:
        begun.require_like(images.facts)
    run = TrainingRun(
        config,
        images,
        folder,
        device,
        begun.generator if begun else None,
        options.accumulate,
        _distance(options, config, images, device),
    )
    if state is not None:
        run.load_state_dict(state)
        if state["best"] is not None and run.state.best is None:
            _tell("another evaluator chose the best average until now: it is chosen anew")
    run.fit()
    where = f" --data-dir {data_dir_of(options)}" if config.dataset == "folder" else ""
    _tell(f"done: {folder}. Next: python -m trainer export {folder} weights/{folder.name}{where}")


def _images(config: RunConfig, folder: Path | None, *, strict: bool = False) -> ImageData:
    images = data.load(config.dataset, folder, image_size=config.image_size, channels=config.channels, strict=strict)
    # A network that never sees a label would have classes that are all the same.
    return images.without_classes() if config.label_dropout == 1 else images


def _tell(line: str) -> None:
    if processes.rank() == 0:
        print(line)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in OVERRIDES if (value := getattr(options, name)) is not None}


def _distance(
    options: argparse.Namespace, config: RunConfig, images: ImageData, device: torch.device
) -> TrainingDistance | None:
    """What the first process chooses the best average by."""
    if config.family == "autoencoder" or processes.rank() > 0:
        return None
    distance, in_words = training_distance(options.evaluator, images, device)
    if distance is None and options.evaluator != EVALUATOR_FOLDER:
        raise UsageError(f"--evaluator {options.evaluator}: {in_words}")
    _tell(in_words)
    return distance


def _fresh(options: argparse.Namespace, folder: Path, begun: Start | None) -> RunConfig:
    if (folder / checkpoint.FILE_NAME).exists():
        raise UsageError(f"{folder} already holds a run: add --resume to go on, or choose another --out")
    try:
        if begun is None:
            return load_preset(options.preset, **_overrides(options))
        return load_preset(options.preset, begun.config, start=begun.folder.as_posix(), **_overrides(options))
    except ValidationError as failure:
        first = failure.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}: " if first["loc"] else ""
        raise UsageError(option + first["msg"].removeprefix("Value error, ")) from failure
    except ValueError as failure:
        raise UsageError(str(failure)) from failure


def _resumed(options: argparse.Namespace, folder: Path) -> tuple[RunConfig, dict[str, object]]:
    config, state = checkpoint.load(folder)
    if config.preset != options.preset:
        raise UsageError(f"{folder} was begun with the preset {config.preset}, not {options.preset}")
    start = {} if options.start is None else {"start": options.start.as_posix()}
    for name, value in (start | _overrides(options)).items():
        if getattr(config, name) != value:
            option = "--from" if name == "start" else f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} {value}: the run in {folder} was begun with "
                f"{getattr(config, name)}, and a resumed run keeps its config"
            )
    return config, state


def _export(options: argparse.Namespace) -> None:
    config, _ = checkpoint.load(options.run)
    manifest = export.export(options.run, options.target, _images(config, options.data_dir))
    print(f"{options.target}/{manifest.artifact.file}: {manifest.artifact.size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
