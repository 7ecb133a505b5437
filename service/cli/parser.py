"""`genserve`: the service, its operation and its pictures from a terminal."""

import argparse
import sys
from collections.abc import Callable, Sequence

from service.cli import about, operate, pictures
from service.cli.asking import CommandError

EXAMPLES = """examples:
  genserve serve                                                  serve the models in the weights folder
  genserve models                                                 what is served
  genserve generate ddpm --class-label sneaker -n 16 -o grid.png  pictures
  genserve film ddpm -o film.gif                                  how they come about
  genserve interpolate vae --from-seed 1 --to-seed 2 -o strip.png
  genserve inspect grid.png                                       what made a picture
  GENSERVE_ADMIN_PORT=8001 genserve serve                         serve, and take the next commands on port 8001
  genserve reload                                                 serve what the weights folder holds
  genserve rollback ddpm                                          back to the version that was replaced last
"""

INTERRUPTED = 130  # as shells tell of SIGINT

Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0, 1 when it failed, 2 when it was not understood, 130 when it was interrupted.
    """
    asked = _parser().parse_args(arguments)
    run: Run = asked.run
    try:
        return run(asked)
    except CommandError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genserve",
        description="Serve small generative image models, operate a running service, and ask it for pictures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in (operate, pictures, about):
        part.add_commands(commands)
    return parser
