"""Commands that need more than the client's packages."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.cli.terminal import CommandError


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Raise CommandError, with the command that installs ``extra``, for an import within that finds no package."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise CommandError(f"this command needs {missing.name}: pip install 'genserve[{extra}]'") from None
