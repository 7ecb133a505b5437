"""A model's metrics from a running service."""

from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families


def scrape(port: int, model: str) -> dict[str, float]:
    """The samples of one model by name; a histogram has a sum and a count."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = (sample for family in families for sample in family.samples)
    return {sample.name: sample.value for sample in samples if sample.labels == {"model": model}}


def rows_per_tick(before: dict[str, float], after: dict[str, float]) -> float:
    """Mean rows per forward pass between two scrapes."""
    rows, ticks = (
        after[f"genserve_tick_rows_{part}"] - before[f"genserve_tick_rows_{part}"] for part in ("sum", "count")
    )
    return rows / ticks
