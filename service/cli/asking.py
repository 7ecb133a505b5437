"""How commands ask a running service, and how they fail."""

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
    """The options of every command that asks a service."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--url", help="the service's address (default: $GENSERVE_URL, else http://127.0.0.1:8000)")
    options.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    return options


@contextmanager
def service_of(asked: argparse.Namespace) -> Iterator["Client"]:
    """A client of the service that the command asks; SIGTERM and SIGHUP interrupt what it does as Ctrl-C does.

    Raises CommandError for whatever a call fails with.
    """
    try:
        import tqdm  # noqa: F401  (both come with one extra)

        from service.client import Client, GenserveError  # not at the top: `genserve serve` does without
    except ModuleNotFoundError as missing:
        raise CommandError(f"this command needs {missing.name}: pip install 'genserve[client]'") from None
    except ValueError as failure:  # it reads TQDM_... variables when it is imported
        raise CommandError(f"a TQDM_ variable of the environment is wrong: {failure}") from None
    try:
        client = Client(asked.url)
    except ValueError as failure:
        raise CommandError(str(failure)) from None
    try:
        with stopping_signals(), client:
            yield client
    except GenserveError as failure:
        raise CommandError(str(failure)) from None


def print_json(value: Any) -> None:  # noqa: ANN401  (JSON, with dataclasses in it)
    """``value`` on one line."""
    print(json.dumps(value, default=lambda each: asdict(each)))
