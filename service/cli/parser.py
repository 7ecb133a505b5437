"""`genserve`: serve models, operate a running service, and request pictures from a terminal."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from service.cli import about, add, keys, operate, pictures
from service.cli.terminal import flush, guarded, open_standard_streams

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

EXAMPLES = """examples:
  genserve serve                                                  serve the models in the folder weights
  genserve serve --weights ~/models --port 9000                   serve those of another folder, on another port
  genserve add FOLDER                                             add a model that pipe.save_pretrained wrote
  genserve models                                                 list the served models
  genserve generate ddpm --class-label sneaker -n 16 -o grid.png  generate pictures
  genserve film ddpm -o film.gif                                  show how pictures develop
  genserve interpolate vae --from-seed 1 --to-seed 2 -o strip.png
  genserve inspect grid.png                                       show how a picture was generated; - is standard input
  GENSERVE_ADMIN_PORT=8001 genserve serve                         serve, with an admin port for the next commands
  genserve reload                                                 serve what the weights folder holds
  genserve rollback ddpm                                          return to the version that was replaced last
  genserve key new alice >> keys.toml                             make an API key for GENSERVE_API_KEYS_FILE
"""

Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0; 1 if it failed; 2 for invalid arguments; 128 plus the number of the signal that ended it,
    such as 130 for Ctrl-C and 141 if the reader of standard output closed it.
    """
    open_standard_streams()
    try:
        code = guarded(lambda: _run(arguments))
    except SystemExit:  # from argparse: help, the version, or invalid arguments
        if failed := guarded(flush):
            return failed
        raise
    return guarded(flush) or code


def _run(arguments: Sequence[str] | None) -> int:
    parsed = _parser().parse_args(arguments)
    run: Run = parsed.run
    return run(parsed)


class _Parser(argparse.ArgumentParser):
    """A parser that fails if its help cannot be written; argparse's own ignores that."""

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        (file or sys.stdout).write(self.format_help())


class _Version(argparse.Action):
    """Print the version, read from the installed packages only when it is needed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"genserve {version('genserve')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="genserve",
        description="Serve small generative image models, operate a running service, and generate pictures with it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in (operate, add, keys, pictures, about):
        part.add_commands(commands)
    return parser
