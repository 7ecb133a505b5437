"""What /metrics says: how many series there are, and sums over all models."""

import time
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

#: Rows and predicted work that a service has accepted and not finished.
OPEN = ("accepted_work_seconds", "queued_rows", "live_rows")


def exposition(port: int) -> str:
    """The text of /metrics."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def series(text: str) -> set[str]:
    """The names with labels of all samples."""
    return {line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}


def total(text: str, *names: str) -> float:
    """The sum of some of the service's samples over their labels."""
    wanted = {f"genserve_{name}" for name in names}
    families = text_string_to_metric_families(text)
    return sum(sample.value for family in families for sample in family.samples if sample.name in wanted)


def seconds_until_idle(port: int, most_s: float) -> float:
    """Seconds until nothing is accepted, queued or computed; infinite if that takes longer than ``most_s``."""
    began = time.monotonic()
    while total(exposition(port), *OPEN) > 0:
        if time.monotonic() - began > most_s:
            return float("inf")
        time.sleep(0.02)
    return time.monotonic() - began
