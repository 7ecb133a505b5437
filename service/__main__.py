"""`python -m service`: settings from the environment, then uvicorn."""

import argparse
import sys

import uvicorn
from pydantic import ValidationError

from service import logs
from service.app import create_app
from service.settings import Settings


def main() -> int:
    """Serve until stopped; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m service",
        description="Serve the models in the weights folder over HTTP.",
        epilog=_knobs(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        settings = Settings()
    except ValidationError as failure:
        for error in failure.errors():
            print(f"error: GENSERVE_{str(error['loc'][0]).upper()}: {error['msg']}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_s),
    )
    return 0


def _knobs() -> str:
    lines = ["environment:"]
    for name, field in Settings.model_fields.items():
        lines.append(f"  GENSERVE_{name.upper()} (default {field.default})\n      {field.description}")
    return "\n".join([*lines, "", "example:", "  GENSERVE_PORT=9000 python -m service"])


if __name__ == "__main__":
    sys.exit(main())
