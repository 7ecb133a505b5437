"""Commands that messages suggest: complete, quoted for a shell, and accepted by the parser."""

import argparse
import re
import shlex
from pathlib import Path

from service.contract.manifest import MANIFEST_FILE
from trainer.config import OVERRIDES, SELECTION_FOLDER, RunConfig, changes

WEIGHTS = Path("weights")
LONGEST_NAME = 32


def command(*words: object) -> str:
    """A command line of the trainer, quoted. Pass paths as Path: "-" at their start must not look like an option."""
    return shlex.join(["python", "-m", "trainer", *map(_word, words)])


def _word(word: object) -> str:
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def export(run: Path, *options: str) -> str:
    """The command that exports ``run`` to a model name that is not in use."""
    return command("export", run, _unused(run), *options)


def resume(config: RunConfig, run: Path, options: argparse.Namespace | None = None, **changed: object) -> str:
    """The command that resumes ``run`` with the evaluator, device and micro-batches of ``options``."""
    return command("train", config.preset, "--out", run, "--resume", *_machine_options(options, changed))


def restart(config: RunConfig, run: Path, data_dir: Path | None, options: argparse.Namespace, **changed: object) -> str:
    """The command that starts ``run`` again in its folder with the options in ``changed``."""
    given = changes(config) | changed
    words: list[object] = ["train", options.preset, "--out", run, "--overwrite"]
    if config.start is not None:
        words += ["--from", Path(config.start)]
    if config.dataset == "folder":
        given["dataset"] = f"folder:{data_dir}"
    elif data_dir is not None:
        words += ["--data-dir", data_dir]
    for name in OVERRIDES:
        if name in given:
            words += _option(name, given[name])
    return command(*words, *_machine_options(options, changed))


def _machine_options(options: argparse.Namespace | None, changed: dict[str, object]) -> list[object]:
    """Options that depend on the machine and do not change the result of a run."""
    defaults = {"evaluator": SELECTION_FOLDER, "device": "auto", "accumulate": 1}
    words: list[object] = []
    for name, default in defaults.items():
        value = changed.get(name, default if options is None else getattr(options, name))
        if value != default:
            words += _option(name, value)
    return [*words, "--strict"] if options is not None and options.strict else words


def _option(name: str, value: object) -> list[object]:
    return [f"--{name.replace('_', '-')}", value]


def _unused(run: Path) -> Path:
    """A folder in weights/ without a model, with a name that the service accepts."""
    stem = re.sub(r"[^a-z0-9_-]+", "-", run.resolve().name.lower()).lstrip("-_")[: LONGEST_NAME - 4] or "model"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    free = (WEIGHTS / name for name in names if not (WEIGHTS / name / MANIFEST_FILE).exists())
    return next(free, WEIGHTS / stem)
