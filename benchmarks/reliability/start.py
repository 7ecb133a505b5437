"""R13: from `docker compose up` to ready."""

import subprocess
import time
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.attacks.watch import Demand
from benchmarks.reliability.bench import Form, NotRun

READY_S, GIVE_UP_S = 15.0, 120.0
COMPOSE = ("docker", "compose", "--project-name", "genserve-reliability")
URL = "http://127.0.0.1:8000/health/ready"


def measure(form: Form) -> list[Demand]:  # noqa: ARG001  (there is no short form)
    """Start the containers of docker-compose.yml, whose images are built first."""
    try:
        subprocess.run(["docker", "info"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        raise NotRun("no docker here") from None
    subprocess.run([*COMPOSE, "build", "--quiet"], check=True)
    try:
        began = time.monotonic()
        subprocess.run([*COMPOSE, "up", "--detach"], check=True)
        return [Demand("from `compose up` to ready, s", _ready_s(began), READY_S)]
    finally:
        subprocess.run([*COMPOSE, "down", "--volumes"], check=False)


def _ready_s(began: float) -> float:
    while time.monotonic() < began + GIVE_UP_S:
        try:
            with urlopen(URL, timeout=5):
                return time.monotonic() - began
        except (URLError, OSError):
            time.sleep(0.1)
    return float("inf")
