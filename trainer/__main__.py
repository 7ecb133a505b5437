"""The trainer's command line: parse, build, call. No training code lives here."""

import argparse
import signal
import sys
from pathlib import Path

from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE
from trainer.run import checkpoint
from trainer import export
from trainer.data import DataError
from trainer.commands.evaluate import add_commands
from trainer.evaluate.errors import EvaluationError
from trainer.run.folder import FolderError
from trainer.generate import NotFinite
from trainer.run.loop import Diverged, Indivisible
from trainer.compute.memory import OutOfMemory, is_out_of_memory
from trainer.commands.options import UsageError, add_overwrite
from trainer.start import StartError
from trainer.run.stopping import Interrupted
from trainer.commands.train import add_train, load_images

EXAMPLES = """\
examples:
  python -m trainer train vae                                    the preset, into runs/vae
  python -m trainer train ddpm --epochs 40 --out runs/long       more epochs, another folder
  python -m trainer train ddpm --out runs/long --resume          go on after it was cut off
  python -m trainer train ddpm --out runs/long --resume --epochs 60    make it longer
  python -m trainer train mine.toml --steps 20000 --learning-rate 5e-4   a preset of your own
  python -m trainer train few-step --from weights/ddpm           begin with a model's network
  python -m trainer train gan --dataset folder:photos --image-size 32 --channels 3 --out runs/photos
  torchrun --nproc-per-node 2 -m trainer train ddpm              two processes, or GPUs: the same losses as one
  python -m trainer export runs/vae weights/my-vae               make the artefact that the service loads
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
    except (MemoryError, RuntimeError) as failure:
        if not is_out_of_memory(failure):
            raise
        print("error: out of memory: fewer or smaller pictures at a time would fit", file=sys.stderr)
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
    FolderError,
    Indivisible,
    NotFinite,
    OSError,
    OutOfMemory,
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
    add_train(commands, EXAMPLES)
    _add_export(commands)
    add_commands(commands)
    return top


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("export", help="turn a run into an artefact for the service", epilog=EXAMPLES)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.set_defaults(command=_export)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("target", type=Path, metavar="weights/NAME", help="folder of the model; NAME is its name")
    command.add_argument("--data-dir", type=Path, help="where the pictures of the run are, if they were moved since")
    command.add_argument("--unfinished", action="store_true", help="also a run that has epochs to go, as it stands")
    command.add_argument(
        "--changed-data",
        action="store_true",
        help="also with pictures that are no longer those of the training: the latent map is drawn of them",
    )
    add_overwrite(command, "put a new version in place of the model there; the one before stays for a rollback")


def _export(options: argparse.Namespace) -> None:
    if (options.target / MANIFEST_FILE).exists() and not options.overwrite:
        raise UsageError(
            f"{options.target} already holds a model: choose another name, or put a new version in its place with "
            "--overwrite"
        )
    config, state = checkpoint.load(options.run)
    export.require_finished(options.run, config, state, unfinished=options.unfinished)
    images = None
    if export.needs_pictures(config):
        kept = state.get("data_dir")
        images = load_images(config, options.data_dir or (Path(kept) if kept else None))
        print(f"data: {images.provenance}", flush=True)
    manifest = export.export(
        options.run,
        options.target,
        images,
        unfinished=options.unfinished,
        changed_data=options.changed_data,
        tell=lambda line: print(line, flush=True),
    )
    print(f"{options.target}/{manifest.artifact.file}: {manifest.artifact.size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
