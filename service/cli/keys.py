"""`genserve key new`: make API keys."""

import argparse

from service.cli.commands import Commands
from service.cli.extras import needing
from service.cli.terminal import CommandError, say


def add_commands(commands: Commands) -> None:
    """Add them to ``commands``."""
    key = commands.add_parser("key", help="make API keys")
    new = key.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
        "new",
        help="make an API key",
        description="Make an API key. Standard output gets the line for GENSERVE_API_KEYS_FILE, which has its hash "
        "only; standard error gets the key, which is shown this once.",
    )
    new.set_defaults(run=_new)
    new.add_argument("name", help="letters, digits, - and _: it is in the log, and jobs and shares are counted for it")
    new.add_argument(
        "--scopes",
        default="generate",
        help="what it permits, separated by commas: generate, metrics, admin (default: generate)",
    )
    new.add_argument("--rate", type=float, help="device milliseconds per second that it may use (default: no limit)")


def _new(arguments: argparse.Namespace) -> int:
    with needing("serve"):
        from service.access.keys import KeysRefused, line_of, new_secret  # not at the top: few commands need it

    secret = new_secret()
    try:
        line = line_of(arguments.name, secret, arguments.scopes.split(","), arguments.rate)
    except KeysRefused as failure:
        raise CommandError(f"this makes no key: {failure}") from None
    print(line)
    say(f"The key of {arguments.name}, which is not shown again: {secret}")
    return 0
