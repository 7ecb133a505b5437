"""The trainer's command line: parse, build, call. No training code lives here."""

import argparse
import signal
import sys

from service.contract.files import ContractError
from trainer import export
from trainer.commands.evaluate import add_evaluation
from trainer.commands.export import add_export
from trainer.commands.options import UsageError
from trainer.commands.train import add_train
from trainer.compute.memory import OutOfMemory, is_out_of_memory
from trainer.data import DataError
from trainer.evaluate.errors import EvaluationError
from trainer.generate import NotFinite
from trainer.run import checkpoint
from trainer.run.folder import FolderError
from trainer.run.loop import Diverged, Indivisible
from trainer.run.stopping import Interrupted
from trainer.start import StartError

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
    add_export(commands, EXAMPLES)
    add_evaluation(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
