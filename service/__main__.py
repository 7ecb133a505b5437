"""`python -m service`: read the settings from the environment, then serve."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from textwrap import wrap

from pydantic import ValidationError

from service import logs
from service.access.keys import KeysRefused, read_keys
from service.process import keep_memory
from service.processes import supervisor
from service.server import serve
from service.settings import Settings
from service.settings.access import is_loopback
from service.settings.texts import variable


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m service",
        description="Serve the models in the weights folder over HTTP.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    try:
        settings = Settings()
    except ValidationError as failure:
        for error in failure.errors():
            print(f"error: {variable(str(error['loc'][0]))}: {error['msg']}", file=sys.stderr)
        return 2
    if (reason := refusal(settings)) is not None:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    keep_memory()
    _warn_of_unknown_settings()
    try:
        admin = serve.bind_admin(settings)
    except OSError as failure:
        print(f"error: GENSERVE_ADMIN_PORT: {failure.strerror}", file=sys.stderr)
        return 2
    if settings.engine == "inline":
        from service.app import create_app  # with torch, which takes the supervisor 170 MB and does nothing for it

        serve.run(create_app(settings), admin, settings)
        return 0
    try:
        return supervisor.run(settings, admin)
    except OSError as failure:
        print(f"error: {failure.strerror}", file=sys.stderr)
        return 2


def refusal(settings: Settings) -> str | None:
    """Why the service must not listen with these settings; None if it may."""
    if settings.api_keys_file is not None:
        try:
            read_keys(settings.api_keys_file)
        except KeysRefused as failure:
            return f"GENSERVE_API_KEYS_FILE: {failure}"
    elif not is_loopback(settings.host) and not settings.allow_anonymous:
        return (
            f"GENSERVE_HOST: other machines can reach {settings.host or 'every address'}, and there are no API keys. "
            "Set GENSERVE_API_KEYS_FILE (`genserve key new NAME` makes a key), or GENSERVE_ALLOW_ANONYMOUS=true if "
            "everyone who can connect may use the service."
        )
    return None


def _warn_of_unknown_settings() -> None:
    known = {variable(name) for name in Settings.model_fields} | {"GENSERVE_URL", "GENSERVE_API_KEY"}  # the client's
    unknown = sorted(name for name in os.environ if name.startswith("GENSERVE_") and name not in known)
    if unknown:
        logging.getLogger(__name__).warning("unknown settings are ignored", extra={"settings": unknown})


def _settings_help() -> str:
    lines = ["environment variables:"]
    for group, settings in groupby(Settings.texts(), key=attrgetter("group")):
        lines += ["", f"{group}:"]
        for each in settings:
            unit = f" {each.unit}" if each.unit else ""
            lines.append(f"  {each.variable} (default: {each.default}{unit})")
            lines += wrap(each.meaning, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
            lines += wrap(f"When to change: {each.change}", 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join([*lines, "", "example:", "  GENSERVE_PORT=9000 python -m service"])


if __name__ == "__main__":
    sys.exit(main())
