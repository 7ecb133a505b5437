"""What commands that send requests to a service have in common."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from service.cli.terminal import CommandError, stopping_signals

if TYPE_CHECKING:
    from service.client import Client


def asking() -> argparse.ArgumentParser:
    """The options of all commands that send requests to a service."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--url", help="the service's address (default: $GENSERVE_URL, else http://127.0.0.1:8000)")
    options.add_argument("--json", action="store_true", help="print JSON")
    return options


@contextmanager
def service_of(arguments: argparse.Namespace) -> Iterator["Client"]:
    """A client of the service that the command names; SIGTERM and SIGHUP interrupt requests as Ctrl-C does.

    Raises CommandError for all failures of requests.
    """
    try:
        import tqdm  # noqa: F401  (it would raise later, in the middle of a command)

        from service.client import Client, GenserveError  # not at the top: `genserve serve` does not need it
    except ValueError as failure:  # tqdm reads TQDM_... variables on import
        raise CommandError(f"a TQDM_ variable of the environment is invalid: {failure}") from None
    try:
        client = Client(arguments.url)
    except ValueError as failure:
        raise CommandError(str(failure)) from None
    try:
        with stopping_signals(), client:
            yield client
    except GenserveError as failure:
        raise CommandError(str(failure)) from None


def print_json(value: Any) -> None:  # noqa: ANN401  (JSON, with dataclasses in it)
    """Print ``value`` on one line."""
    print(json.dumps(value, default=lambda each: asdict(each)))
