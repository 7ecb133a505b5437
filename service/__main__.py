"""`python -m service`: settings from the environment, then uvicorn."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from service import logs
from service.process import keep_memory
from service.server import serve
from service.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m service",
        description="Serve the models in the weights folder over HTTP.",
        epilog=_knobs(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    try:
        settings = Settings()
    except ValidationError as failure:
        for error in failure.errors():
            print(f"error: GENSERVE_{str(error['loc'][0]).upper()}: {error['msg']}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    keep_memory()
    _name_unknown_knobs()
    try:
        admin = serve.bind_admin(settings)
    except OSError as failure:
        print(f"error: GENSERVE_ADMIN_PORT: {failure.strerror}", file=sys.stderr)
        return 2
    serve.run(settings, admin)
    return 0


def _name_unknown_knobs() -> None:
    known = {f"GENSERVE_{name.upper()}" for name in Settings.model_fields} | {"GENSERVE_URL"}  # the client's
    unknown = sorted(name for name in os.environ if name.startswith("GENSERVE_") and name not in known)
    if unknown:
        logging.getLogger(__name__).warning("unknown settings are ignored", extra={"settings": unknown})


def _knobs() -> str:
    lines = ["environment:"]
    for name, field in Settings.model_fields.items():
        lines.append(f"  GENSERVE_{name.upper()} (default {field.default})\n      {field.description}")
    return "\n".join([*lines, "", "example:", "  GENSERVE_PORT=9000 python -m service"])


if __name__ == "__main__":
    sys.exit(main())
