"""`genserve`: the service, its operation and its pictures from a terminal."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from service.cli import about, operate, pictures
from service.cli.terminal import flush, guarded, open_standard_streams

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

EXAMPLES = """examples:
  genserve serve                                                  serve the models in the weights folder
  genserve models                                                 what is served
  genserve generate ddpm --class-label sneaker -n 16 -o grid.png  pictures
  genserve film ddpm -o film.gif                                  how they come about
  genserve interpolate vae --from-seed 1 --to-seed 2 -o strip.png
  genserve inspect grid.png                                       what made a picture; - is standard input
  GENSERVE_ADMIN_PORT=8001 genserve serve                         serve, and take the next commands on port 8001
  genserve reload                                                 serve what the weights folder holds
  genserve rollback ddpm                                          back to the version that was replaced last
"""

Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0, 1 when it failed, 2 when it was not understood, 128 and a signal's number when that ended
    it: 130 for Ctrl-C, 141 when standard output's reader went away.
    """
    open_standard_streams()
    try:
        code = guarded(lambda: _run(arguments))
    except SystemExit:  # argparse's: help, the version, or a command that is not understood
        if failed := guarded(flush):
            return failed
        raise
    return guarded(flush) or code


def _run(arguments: Sequence[str] | None) -> int:
    asked = _parser().parse_args(arguments)
    run: Run = asked.run
    return run(asked)


class _Parser(argparse.ArgumentParser):
    """One that fails where its help cannot be written: argparse's own passes over that."""

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        (file or sys.stdout).write(self.format_help())


class _Version(argparse.Action):
    """Print the version, which only this asks the installed packages for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"genserve {version('genserve')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="genserve",
        description="Serve small generative image models, operate a running service, and ask it for pictures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in (operate, pictures, about):
        part.add_commands(commands)
    return parser
