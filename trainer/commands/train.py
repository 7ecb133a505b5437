"""The command `train`: options -> config, data and folder -> a run; and what to do next, as commands to paste."""

import argparse
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from service.contract.manifest import MANIFEST_FILE
from trainer import data, suggestions
from trainer.commands.data_report import describe, few_steps, poor_data
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
    rate,
)
from trainer.compute import memory, precision, processes
from trainer.config import EVALUATOR_FOLDER, OVERRIDES, Extension, RunConfig, is_own, load_preset, presets
from trainer.data import ImageData
from trainer.evaluate.progress import TrainingDistance, training_distance
from trainer.run import checkpoint, folder
from trainer.run.loop import Diverged, TrainingRun
from trainer.run.stopping import Interrupted
from trainer.start import Start, load_start

#: Options of the length of a run, the only ones that may change when it is resumed.
LENGTH = ("epochs", "steps")


def add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", examples: str) -> None:
    """Add train to the trainer's command line."""
    train = commands.add_parser(
        "train",
        help="train a model from its preset, or resume a run",
        description="Train a model. What is not given comes from trainer/presets/PRESET.toml, or from your own file.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(command=run_train)
    known = ", ".join(presets())
    train.add_argument("preset", type=_preset, metavar="PRESET", help=f"one of {known}, or a file like theirs, *.toml")
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
        "package first); with --resume of a run whose pictures were moved, where they are now",
    )
    train.add_argument("--strict", action="store_true", help="refuse pictures that are unreadable or too small")
    length = train.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs", type=int, help="passes over the pictures; with --resume more than before extend a run"
    )
    length.add_argument("--steps", type=positive, metavar="N", help="training steps in all, in place of --epochs")
    train.add_argument("--batch-size", type=int)
    train.add_argument("--learning-rate", type=rate, metavar="RATE", help="the highest, after the warm-up")
    train.add_argument("--width", type=positive, metavar="N", help="channels of the network at half resolution")
    train.add_argument("--seed", type=int, help="everything random follows from it")
    add_precision(train)
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
    what = train.add_mutually_exclusive_group()
    what.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its config")
    add_overwrite(what, "delete the run in --out and begin a new one there")
    train.add_argument(
        "--changed-data", action="store_true", help="with --resume: go on although the pictures are no longer the same"
    )


def run_train(options: argparse.Namespace) -> None:
    """Train as the options say."""
    if options.changed_data and not options.resume:
        raise UsageError("--changed-data is for --resume: a new run takes the pictures as they are")
    with processes.joined(device_of(options)) as device:
        out = options.out or Path("runs") / Path(options.preset).stem
        with folder.claimed(out) if processes.rank() == 0 else nullcontext():
            _train_in(out, options, device)


def _train_in(out: Path, options: argparse.Namespace, device: torch.device) -> None:
    """What each of the processes does that train together."""
    begun = load_start(options.start) if options.start and not options.resume else None
    if options.resume:
        config, state = _resumed(options, out)
    else:
        config, state = _fresh(options, out, begun, device), None
    data_dir = data_dir_of(options) or _data_dir_then(state)
    with processes.first_alone(), memory.explained("fewer pictures, or a smaller --image-size, would fit"):
        images = load_images(config, data_dir, strict=options.strict)
    for line in describe(images):
        _tell(line)
    if begun is not None:
        begun.require_like(images.facts)
    distance = _distance(options, config, images, device)
    generator = begun.generator if begun else None
    with memory.explained("a smaller --width or --image-size would fit"):
        run = TrainingRun(config, images, out, device, generator, options.accumulate, distance, data_dir)
    if state is not None:
        run.load_state_dict(state, changed_data=options.changed_data)
        if state["best"] is not None and run.state.best is None:
            _tell("another evaluator chose the best average until now: it is chosen anew")
    elif options.overwrite and processes.rank() == 0:
        folder.clear(out)
    _tell_plan(run, images, resumed=options.resume)
    _fit(run, options)
    _tell(f"done: {out}. Next: {suggestions.export(out)}")


def load_images(config: RunConfig, data_dir: Path | None, *, strict: bool = False) -> ImageData:
    """The training pictures of a run. Raises DataError."""
    images = data.load(config.dataset, data_dir, image_size=config.image_size, channels=config.channels, strict=strict)
    # A network that never sees a label would have classes that are all the same.
    return images.without_classes() if config.label_dropout == 1 else images


def _fit(run: TrainingRun, options: argparse.Namespace) -> None:
    """Train; what ends a run early says how to go on."""

    def again(**changed: object) -> str:
        return suggestions.again(run.config, run.folder, run.data_dir, options, **changed)

    try:
        run.fit()
    except Interrupted as stopped:
        raise Interrupted(stopped.signum, suggestions.resume(run.config, run.folder, options)) from stopped
    except Diverged as failure:
        lower = again(learning_rate=run.config.optimizer.learning_rate / 2)
        raise Diverged(f"{failure}. For example: {lower}") from failure
    except memory.OutOfMemory as failure:
        parts, half = run.finer_parts(), max(1, run.config.batch_size // 2)
        if parts is None:
            smaller = again(batch_size=half)
        elif (run.folder / checkpoint.FILE_NAME).exists():
            smaller = suggestions.resume(run.config, run.folder, options, accumulate=parts)
        else:
            smaller = again(accumulate=parts)
        raise memory.OutOfMemory(f"{failure}. For example: {smaller}") from failure


def _tell(line: str) -> None:
    if processes.rank() == 0:
        print(line, flush=True)


def _tell_plan(run: TrainingRun, images: ImageData, *, resumed: bool) -> None:
    plan = run.plan
    epochs = "epoch" if plan.epochs == 1 else "epochs"
    _tell(f"plan: {plan.total:,} steps in {plan.epochs:,} {epochs} of {plan.per_epoch:,}, in {run.config.precision}")
    if processes.rank() == 0 and run.config.dataset == "folder":
        warnings = [*poor_data(images), *(() if resumed else few_steps(run.config, plan))]
        print(*(f"warning: {warning}" for warning in warnings), sep="\n", end="\n" * bool(warnings), file=sys.stderr)


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


def _fresh(options: argparse.Namespace, out: Path, begun: Start | None, device: torch.device) -> RunConfig:
    if (out / checkpoint.FILE_NAME).exists() and not options.overwrite:
        raise UsageError(
            f"{out} already holds a run: add --resume to go on, --overwrite to delete it, or choose another --out"
        )
    if (out / MANIFEST_FILE).exists():
        raise UsageError(f"{out} holds a model: choose another --out for the run")
    try:
        begun_config, start = (begun.config, begun.folder.as_posix()) if begun else (None, None)
        config = load_preset(options.preset, begun_config, start=start, **_overrides(options))
    except ValidationError as failure:
        raise UsageError(_wrong_field(options, failure)) from failure
    except ValueError as failure:
        raise UsageError(str(failure)) from failure
    if "precision" in config.model_fields_set:
        return config
    choice = processes.from_first(lambda: precision.measured(device))
    _tell(f"precision: {choice}")
    return config.model_copy(update={"precision": choice.precision})


def _wrong_field(options: argparse.Namespace, failure: ValidationError) -> str:
    """The first error by the option that gave the value, or by the field of the user's preset file."""
    first = failure.errors()[0]
    reason, place = first["msg"].removeprefix("Value error, "), tuple(map(str, first["loc"]))
    if not place:
        return reason
    for name in _overrides(options):
        path = OVERRIDES[name]
        if place[0] == path[0] and place[-1] == path[-1]:
            unknown = f"{options.preset} has no such setting" if first["type"] == "extra_forbidden" else reason
            return f"--{name.replace('_', '-')}: {unknown}"
    if is_own(options.preset):
        return f"{options.preset}, {'.'.join(place)}: {reason}"
    return f"--{place[0].replace('_', '-')}: {reason}"


def _resumed(options: argparse.Namespace, out: Path) -> tuple[RunConfig, dict[str, Any]]:
    config, state = checkpoint.load(out)
    if config.preset != Path(options.preset).name:
        raise UsageError(f"{out} was begun with the preset {config.preset}, not {options.preset}")
    given = _overrides(options)
    if options.start is not None and config.start != options.start.as_posix():
        raise UsageError(_kept("--from", options.start, out, config.start))
    for name, value in given.items():
        if name not in LENGTH and config.value(name) != value:
            raise UsageError(_kept(f"--{name.replace('_', '-')}", value, out, config.value(name)))
    return _extended(config, state, {name: given[name] for name in LENGTH if name in given}, out), state


def _kept(option: str, value: object, out: Path, before: object) -> str:
    return (
        f"{option} {value}: the run in {out} was begun with {before}, and a resumed run keeps its config "
        "but for --epochs and --steps, which may be more"
    )


def _extended(config: RunConfig, state: dict[str, Any], length: dict[str, int], out: Path) -> RunConfig:
    """``config`` with a new ``length``, if any is given, and a record of when it changed."""
    if not length:
        return config
    ((name, value),) = length.items()
    if value < 1:
        raise UsageError(f"--{name} {value}: at least 1")
    images = state["data"]["images"]
    longer = config.model_copy(update={"steps": length.get("steps"), "epochs": length.get("epochs", config.epochs)})
    before, after = config.total_steps(images), longer.total_steps(images)
    if after < before:
        begun = f"{config.steps} steps" if config.steps else f"{config.epochs} epochs"
        raise UsageError(
            f"--{name} {value}: the run in {out} was begun with {begun}, and can only be made longer. "
            f"To use it as it is: {suggestions.export(out, '--unfinished')}"
        )
    if after == before:
        return config
    _tell(f"the run is extended from {before:,} to {after:,} steps; its learning rate follows the longer plan")
    extension = Extension(at=state["step"], planned=before)
    return longer.model_copy(update={"extended": (*config.extended, extension)})


def _data_dir_then(state: dict[str, Any] | None) -> Path | None:
    kept = state and state.get("data_dir")
    return Path(kept) if kept else None


def _preset(text: str) -> str:
    """A name of ``presets`` or the path of a file of one's own."""
    if text in presets() or re.search(r"[^/]\.toml$", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(presets())}, nor a file *.toml")
