"""The command `train`: it builds a run from the options and suggests the next command after it ends."""

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
    add_command,
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
from trainer.config import OVERRIDES, SELECTION_FOLDER, Extension, RunConfig, is_own, load_preset, presets
from trainer.data import ImageData
from trainer.evaluate.progress import TrainingDistance, training_distance
from trainer.run import checkpoint, folder
from trainer.run.loop import Diverged, TrainingRun
from trainer.run.stopping import Interrupted
from trainer.start import Start, load_start

#: Options that may change when a run is resumed: they define its length.
LENGTH = ("epochs", "steps")


def add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", examples: str) -> None:
    """Add train to the trainer's command line."""
    train = add_command(commands, "train", "train a model from its preset, or resume a run", examples)
    train.description = "Train a model. Defaults come from trainer/presets/PRESET.toml or from your own preset file."
    train.set_defaults(command=run_train)
    known = ", ".join(presets())
    train.add_argument("preset", type=_preset, metavar="PRESET", help=f"one of {known}, or your own *.toml file")
    train.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="FOLDER",
        help="model or finished run to start from: an autoencoder for ldm, a ddpm for few-step and "
        "ddpm-guided, an ldm for ldm-guided, an emoji for emoji-control and emoji-few-step",
    )
    add_dataset(train)
    train.add_argument(
        "--data-dir",
        type=Path,
        help="folder of the data set (default: ./data, downloaded if missing; for fashion-mnist Debian's package "
        "first); with --resume the new folder of images that were moved",
    )
    train.add_argument("--strict", action="store_true", help="reject a folder with unreadable or too small images")
    _add_recipe(train)
    add_evaluator(train, SELECTION_FOLDER)
    add_device(train)
    train.add_argument(
        "--accumulate",
        type=positive,
        default=1,
        metavar="N",
        help="gradient accumulation over N micro-batches: less memory, the same results",
    )
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET)")
    what = train.add_mutually_exclusive_group()
    what.add_argument("--resume", action="store_true", help="resume from the checkpoint in --out with its config")
    add_overwrite(what, "delete the run in --out and start a new one")
    train.add_argument(
        "--changed-data", action="store_true", help="with --resume: accept images that differ from the original ones"
    )


def _add_recipe(train: argparse.ArgumentParser) -> None:
    """Add the options that replace a preset's values, except those of the data set."""
    length = train.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs", type=int, help="passes over the images; another value with --resume extends or shortens the run"
    )
    length.add_argument("--steps", type=positive, metavar="N", help="total training steps, instead of --epochs")
    train.add_argument("--batch-size", type=int)
    train.add_argument("--learning-rate", type=rate, metavar="RATE", help="learning rate after the warm-up")
    train.add_argument("--width", type=positive, metavar="N", help="channels of the networks for each patch")
    train.add_argument("--patch", type=positive, metavar="N", help="side of a patch in pixels: 2, or 4 for less work")
    train.add_argument("--seed", type=int, help="seed of all random numbers")
    add_precision(train)
    train.add_argument("--grid-every", type=int, metavar="N", help="write a grid of samples every N epochs")


def run_train(options: argparse.Namespace) -> None:
    """Run the command."""
    if options.changed_data and not options.resume:
        raise UsageError("--changed-data needs --resume: a new run accepts any images")
    with processes.process_group(device_of(options)) as device:
        out = options.out or Path("runs") / Path(options.preset).stem
        with folder.locked(out) if processes.rank() == 0 else nullcontext():
            _train_in(out, options, device)


def _train_in(out: Path, options: argparse.Namespace, device: torch.device) -> None:
    """Train in one of the processes."""
    start = load_start(options.start) if options.start and not options.resume else None
    if options.resume:
        config, state = _resumed_config(options, out)
    else:
        config, state = _new_config(options, out, start, device), None
    data_dir = data_dir_of(options) or _stored_data_dir(state)
    with processes.main_process_first(), memory.hint("use fewer images or a smaller --image-size"):
        images = load_images(config, data_dir, strict=options.strict)
    if config.guided and len(images.facts.class_names) < 2:
        raise UsageError(f"{config.preset} needs images of several classes: guidance leads from all of them to one")
    for line in describe(images):
        _print(line)
    if start is not None:
        start.require_matching(images.facts)
    distance = _distance(options, config, images, device)
    generator, notes = (start.generator, start.notes) if start else (None, None)
    with memory.hint("use a smaller --width or --image-size"):
        run = TrainingRun(config, images, out, device, generator, options.accumulate, distance, data_dir, notes)
    if state is not None:
        run.load_state_dict(state, changed_data=options.changed_data)
        if state["best"] is not None and run.state.best is None:
            _print("the best EMA weights were selected by another evaluator: the selection starts again")
    elif options.overwrite and processes.rank() == 0:
        folder.clear(out)
    _print_plan(run, images, resumed=options.resume)
    _fit(run, options)
    _print(f"done: {out}. Next: {suggestions.export(out)}")


def load_images(config: RunConfig, data_dir: Path | None, *, strict: bool = False) -> ImageData:
    """The training images of a run. Raises DataError."""
    images = data.load(
        config.dataset,
        data_dir,
        image_size=config.image_size,
        channels=config.channels,
        strict=strict,
        captioned=config.captioned,
    )
    # A network that never gets a label would generate the same for every class.
    unread = config.label_dropout == 1 or (images.captions is not None and not config.captioned)
    return images.without_classes() if unread else images


def _fit(run: TrainingRun, options: argparse.Namespace) -> None:
    """Train; if the run ends early, the error suggests the next command."""

    def restart(**changed: object) -> str:
        return suggestions.restart(run.config, run.folder, run.data_dir, options, **changed)

    try:
        run.fit()
    except Interrupted as stopped:
        raise Interrupted(stopped.signum, suggestions.resume(run.config, run.folder, options)) from stopped
    except Diverged as failure:
        lower = restart(learning_rate=run.config.optimizer.learning_rate / 2)
        raise Diverged(f"{failure}. For example: {lower}") from failure
    except memory.OutOfMemory as failure:
        parts, half = run.more_micro_batches(), max(1, run.config.batch_size // 2)
        if parts is None:
            smaller = restart(batch_size=half)
        elif (run.folder / checkpoint.FILE_NAME).exists():
            smaller = suggestions.resume(run.config, run.folder, options, accumulate=parts)
        else:
            smaller = restart(accumulate=parts)
        raise memory.OutOfMemory(f"{failure}. For example: {smaller}") from failure


def _print(line: str) -> None:
    if processes.rank() == 0:
        print(line, flush=True)


def _print_plan(run: TrainingRun, images: ImageData, *, resumed: bool) -> None:
    plan = run.plan
    epochs = "epoch" if plan.epochs == 1 else "epochs"
    _print(f"plan: {plan.total:,} steps in {plan.epochs:,} {epochs} of {plan.per_epoch:,}, in {run.config.precision}")
    if processes.rank() == 0 and run.config.dataset == "folder":
        warnings = [*poor_data(images), *(() if resumed else few_steps(run.config, plan))]
        print(*(f"warning: {warning}" for warning in warnings), sep="\n", end="\n" * bool(warnings), file=sys.stderr)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in OVERRIDES if (value := getattr(options, name)) is not None}


def _distance(
    options: argparse.Namespace, config: RunConfig, images: ImageData, device: torch.device
) -> TrainingDistance | None:
    """The distance that selects the best EMA weights, in the main process only."""
    if config.captioned and options.evaluator != SELECTION_FOLDER:
        raise UsageError("--evaluator: the weights of a text-to-image run are not selected by scores")
    if config.family == "autoencoder" or config.captioned or processes.rank() > 0:
        return None
    distance, explanation = training_distance(options.evaluator, images, device)
    if distance is None and options.evaluator != SELECTION_FOLDER:
        raise UsageError(f"--evaluator {options.evaluator}: {explanation}")
    _print(explanation)
    return distance


def _new_config(options: argparse.Namespace, out: Path, start: Start | None, device: torch.device) -> RunConfig:
    if (out / checkpoint.FILE_NAME).exists() and not options.overwrite:
        raise UsageError(
            f"{out} already contains a run: add --resume to resume it, --overwrite to delete it, or choose --out"
        )
    if (out / MANIFEST_FILE).exists():
        raise UsageError(f"{out} contains a model: choose another --out for the run")
    try:
        base, folder_name = (start.config, start.folder.as_posix()) if start else (None, None)
        config = load_preset(options.preset, base, start=folder_name, **_overrides(options))
    except ValidationError as failure:
        raise UsageError(_wrong_field(options, failure)) from failure
    except ValueError as failure:
        raise UsageError(str(failure)) from failure
    if "precision" in config.model_fields_set:
        return config
    choice = processes.from_main_process(lambda: precision.fastest(device))
    _print(f"precision: {choice}")
    return config.model_copy(update={"precision": choice.precision})


def _wrong_field(options: argparse.Namespace, failure: ValidationError) -> str:
    """The first validation error, with its option or with its field in the user's preset file."""
    first = failure.errors()[0]
    reason, place = first["msg"].removeprefix("Value error, "), tuple(map(str, first["loc"]))
    if not place:
        return reason
    for name in _overrides(options):
        path = OVERRIDES[name]
        if place[0] == path[0] and place[-1] == path[-1]:
            unknown = (
                f"the preset {options.preset} has no such setting" if first["type"] == "extra_forbidden" else reason
            )
            return f"--{name.replace('_', '-')}: {unknown}"
    if is_own(options.preset):
        return f"{options.preset}, {'.'.join(place)}: {reason}"
    return f"--{place[0].replace('_', '-')}: {reason}"


def _resumed_config(options: argparse.Namespace, out: Path) -> tuple[RunConfig, dict[str, Any]]:
    config, state = checkpoint.load(out)
    if config.preset != Path(options.preset).name:
        raise UsageError(f"{out} was started with the preset {config.preset}, not {options.preset}")
    given = _overrides(options)
    if options.start is not None and config.start != options.start.as_posix():
        raise UsageError(_fixed("--from", options.start, out, config.start))
    for name, value in given.items():
        if name not in LENGTH and config.value(name) != value:
            raise UsageError(_fixed(f"--{name.replace('_', '-')}", value, out, config.value(name)))
    return _extended(config, state, {name: given[name] for name in LENGTH if name in given}, out), state


def _fixed(option: str, value: object, out: Path, before: object) -> str:
    return (
        f"{option} {value}: the run in {out} was started with {before}; of its config only --epochs and --steps can "
        "change"
    )


def _extended(config: RunConfig, state: dict[str, Any], length: dict[str, int], out: Path) -> RunConfig:
    """``config`` with the new ``length``, if given, and a record of the change."""
    if not length:
        return config
    ((name, value),) = length.items()
    if value < 1:
        raise UsageError(f"--{name} {value}: must be at least 1")
    images = state["data"]["images"]
    changed = config.model_copy(update={"steps": length.get("steps"), "epochs": length.get("epochs", config.epochs)})
    before, after = config.total_steps(images), changed.total_steps(images)
    if after < state["step"]:
        raise UsageError(
            f"--{name} {value}: the run in {out} has already done {state['step']:,} steps, not {after:,}. "
            f"To use it as it is: {suggestions.export(out, '--unfinished')}"
        )
    if after == before:
        return config
    done = "extended" if after > before else "shortened"
    _print(f"the run is {done} from {before:,} to {after:,} steps; the learning rate follows the new schedule")
    extension = Extension(at=state["step"], planned=before)
    return changed.model_copy(update={"extended": (*config.extended, extension)})


def _stored_data_dir(state: dict[str, Any] | None) -> Path | None:
    stored = state and state.get("data_dir")
    return Path(stored) if stored else None


def _preset(text: str) -> str:
    """A name of ``presets`` or the path of the user's own file."""
    if text in presets() or re.search(r"[^/]\.toml$", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is neither one of {', '.join(presets())} nor a *.toml file")
