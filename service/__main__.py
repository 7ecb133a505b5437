"""`python -m service`: settings from the environment, then uvicorn."""

import argparse
import logging
import os
import signal
import sys

import uvicorn
from pydantic import ValidationError

from service import logs
from service.app import create_app
from service.process import keep_memory
from service.protocol import Protocol
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
    keep_memory()
    _name_unknown_knobs()
    # uvicorn raises the signal again after a clean stop, which would make the exit code look like a crash.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        create_app(settings),
        http=Protocol,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing here reads the client's address or the scheme, so no proxy's word on them is taken.
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=settings.drain_s,  # type: ignore[arg-type]  # a timeout of asyncio: a fraction will do
    )
    return 0


def _name_unknown_knobs() -> None:
    known = {f"GENSERVE_{name.upper()}" for name in Settings.model_fields}
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
