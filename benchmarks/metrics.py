"""What metrics cost: counting, a scrape of a service with several processes, and counting's share of a request.

Compared with prometheus_client, which has the same metrics in one process and in files (its multiprocess mode).

python -m benchmarks.metrics                prints a table, writes benchmarks/results/metrics.json
"""

import argparse
import os
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.testclient import TestClient

from benchmarks.report import verdict, write_record
from service.app import create_app
from service.errors import ServiceError
from service.metrics import Metrics
from service.series.kinds import Counter, Histogram
from service.settings import Settings

SLOTS = ("api-0", "api-1", "engine-0", "supervisor")
MODELS = tuple(f"model-{number}" for number in range(6))
CALLS = 5_000
REQUESTS = 50
#: The longest scrape, and the processor time of a request in one process (docs/PERFORMANCE.md) with counting's share.
SCRAPE_MS, REQUEST_US, SHARE = 20.0, 450.0, 0.01

KINDS: dict[str, Any] = {
    "counter": prometheus_client.Counter,
    "gauge": prometheus_client.Gauge,
    "histogram": prometheus_client.Histogram,
}
#: The library's metrics by name.
Copies = dict[str, Any]


def main() -> None:
    """Measure in turn and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="measurements of each (default 60)")
    rounds = parser.parse_args().rounds
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="genserve-metrics-", dir=memory) as scratch:
        ours, library = Path(scratch, "ours"), Path(scratch, "library")
        ours.mkdir()
        library.mkdir()
        one, several = filled(Metrics()), [filled(Metrics.shared(ours, slot)) for slot in SLOTS]
        plain, merged = CollectorRegistry(), CollectorRegistry()
        copies = copied(one, plain)
        files = [in_files(one, library, slot) for slot in SLOTS]
        MultiProcessCollector(merged, str(library))  # type: ignore[no-untyped-call]
        counted = in_turn(rounds, counting((one, several[0]), (copies, files[0])), nanoseconds)
        scraped = in_turn(
            rounds,
            {
                "ours, one process": one.expose,
                "ours, four processes": several[0].expose,
                "library, one process": lambda: generate_latest(plain),
                "library, four processes": lambda: generate_latest(merged),
            },
            milliseconds,
        )
    operations = per_request()
    report(counted, scraped, operations)


def filled(metrics: Metrics) -> Metrics:
    """``metrics`` with all series of six models."""
    metrics.for_unknown_models(ServiceError.codes())
    for model in MODELS:
        metrics.for_model(model, ServiceError.codes())
        metrics.show_version(model, "family", "0" * 8, "0" * 64)
    return metrics


def copied(metrics: Metrics, registry: CollectorRegistry) -> Copies:
    """The library's metrics with the same series as ``metrics``, by name, in ``registry``."""
    return {metric.name: copy(metric, registry) for metric in metrics.registry.collect()}


def in_files(metrics: Metrics, folder: Path, slot: str) -> Copies:
    """``copied``, of a process of the library's multiprocess mode."""
    kept = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    with patch.dict(os.environ, environment), patch.object(values, "ValueClass", kept):
        return copied(metrics, CollectorRegistry())


def copy(metric: Metric, registry: CollectorRegistry) -> Any:  # noqa: ANN401  (one of the library's three classes)
    """The library's metric with the series of ``metric``."""
    names = tuple(name for name in metric.samples[0].labels if name != "le") if metric.samples else ()
    kind, more = KINDS[metric.type], {}
    if metric.type == "histogram":
        more["buckets"] = list(
            dict.fromkeys(float(each.labels["le"]) for each in metric.samples if "le" in each.labels)
        )
    family = kind(metric.name, metric.documentation, names, registry=registry, **more)
    for labels in {tuple(sample.labels[name] for name in names) for sample in metric.samples} if names else ():
        family.labels(*labels)
    return family


def counting(ours: Sequence[Metrics], library: Sequence[Copies]) -> dict[str, Callable[[], object]]:
    """What is timed for counting: both kinds in one process, and in files."""
    calls: dict[str, Callable[[], object]] = {}
    for name, metrics, copies in zip(("one process", "files"), ours, library, strict=True):
        model = metrics.for_model(MODELS[0], ())
        images, seconds = (copies[f"genserve_{each}"].labels(MODELS[0]) for each in ("images", "request_seconds"))
        calls[f"ours, {name}: inc"] = model.images.inc
        calls[f"ours, {name}: observe"] = partial(model.request_seconds.observe, 0.0123)
        calls[f"library, {name}: inc"] = images.inc
        calls[f"library, {name}: observe"] = partial(seconds.observe, 0.0123)
    return calls


Figures = dict[str, list[float]]


def in_turn(rounds: int, calls: dict[str, Callable[[], object]], measure: Callable[..., float]) -> Figures:
    """The figures of ``rounds`` measurements of each call."""
    figures: Figures = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            figures[name].append(measure(call))
    return figures


def nanoseconds(call: Callable[[], object]) -> float:
    """Nanoseconds of processor time of one call, a mean."""
    return 1e9 * timeit.timeit(call, timer=time.process_time, number=CALLS) / CALLS


def milliseconds(call: Callable[[], object]) -> float:
    """Milliseconds of processor time of one call."""
    started = time.process_time_ns()
    call()
    return (time.process_time_ns() - started) / 1e6


def per_request() -> dict[str, float]:
    """Calls of ``inc`` and ``observe`` for one picture of the quick GAN, a mean over requests one after another."""
    made = {"inc": 0, "observe": 0}

    def noting(name: str, method: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: object) -> None:
            made[name] += 1
            method(*arguments)

        return noted

    with tempfile.TemporaryDirectory(prefix="genserve-metrics-") as weights:
        (Path(weights) / "quick-gan").symlink_to(Path("weights/quick-gan").resolve())
        settings = Settings(weights_dir=Path(weights), access_log=False)
        with (
            patch.object(Counter, "inc", noting("inc", Counter.inc)),
            patch.object(Histogram, "observe", noting("observe", Histogram.observe)),
            TestClient(create_app(settings)) as client,
        ):
            made.update(inc=0, observe=0)
            for _ in range(REQUESTS):
                client.post("/generate/quick-gan", json={}).raise_for_status()
            return {name: count / REQUESTS for name, count in made.items()}


def report(counted: Figures, scraped: Figures, operations: dict[str, float]) -> None:
    """Print the figures and write the record."""
    for figures, unit in ((counted, "ns"), (scraped, "ms of processor time")):
        for name, each in figures.items():
            low, _, high = quantiles(each, n=4)
            print(f"{name:32} {median(each):8.2f} {unit}   quartiles {low:.2f} {high:.2f}")
    us = sum(number * median(counted[f"ours, files: {name}"]) for name, number in operations.items()) / 1000
    met = us <= SHARE * REQUEST_US
    print(f"a request: {operations['inc']:g} inc, {operations['observe']:g} observe: {us:.2f} us", end="")
    print(f" of {REQUEST_US:g} us, at most {SHARE:.0%}: {verdict(met)}")
    scrape_ms = median(scraped["ours, four processes"])
    print(f"a scrape: at most {SCRAPE_MS:g} ms: {verdict(scrape_ms <= SCRAPE_MS)}")
    medians = [{name: median(each) for name, each in figures.items()} for figures in (counted, scraped)]
    write_record("metrics", counting_ns=medians[0], scrape_ms=medians[1], operations=operations, request_us=us)


if __name__ == "__main__":
    main()
