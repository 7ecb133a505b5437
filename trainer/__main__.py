"""Entry point of the trainer: it parses the command line, runs a command and maps errors to exit codes."""

import argparse
import signal
import sys

from service.contract.files import ContractError
from trainer import export
from trainer.commands.compare import add_compare
from trainer.commands.evaluate import add_evaluate
from trainer.commands.evaluators import add_evaluators
from trainer.commands.export import add_export
from trainer.commands.options import UsageError
from trainer.commands.samples import add_samples
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
  python -m trainer train ddpm --out runs/long --resume          resume it after an interruption
  python -m trainer train ddpm --out runs/long --resume --epochs 60    extend it
  python -m trainer train mine.toml --steps 20000 --learning-rate 5e-4   a preset of your own
  python -m trainer train few-step --from weights/ddpm           start from an existing model
  python -m trainer train gan --dataset folder:photos --image-size 32 --channels 3 --out runs/photos
  torchrun --nproc-per-node 2 -m trainer train ddpm              two processes or GPUs, with the losses of one
  python -m trainer export runs/vae weights/my-vae               export it as a model for the service
  python -m trainer export runs/vae weights/my-vae --sign vae.key    and sign it: docs/OPERATIONS.md
  python -m trainer evaluate weights/vae                         score it; see evaluate --help
  python -m trainer samples runs/emoji emoji.png                 images of fixed prompts, with fixed seeds
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 after an error (printed as one line), 128 + the signal."""
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
        print("error: out of memory: use fewer or smaller images at a time", file=sys.stderr)
        return 1
    return 0


#: Errors that the user can correct: they end a command with one line.
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
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train small image generators and export them for the service.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands, EXAMPLES)
    add_export(commands, EXAMPLES)
    add_evaluators(commands)
    add_evaluate(commands)
    add_compare(commands)
    add_samples(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
