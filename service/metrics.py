"""Every metric of the service: name, labels, buckets. Nobody else names one.

Label values come from closed sets (loaded models, the codes of the error tree), so that no request can add a series;
all series of a model exist from the moment it is registered.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

#: x1.6 from 100 microseconds to 30 seconds: small models answer in under a millisecond, 1,000-step jobs in seconds.
SECONDS_BUCKETS = (*(1e-4 * 1.6**i for i in range(27)), 30.0)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

#: What became of a change of a model: another version serves, nothing was to do, it was refused, it was taken away.
Change = Literal["swapped", "unchanged", "failed", "unloaded"]

#: The model label of a request for a model that is not served.
UNKNOWN_MODEL = "_unknown"


class Seconds:
    """How long something took, over and over: counts by ``SECONDS_BUCKETS``. Observed on one thread only.

    prometheus_client's own histogram locks twice and looks through its buckets one by one; four of them were a tenth of
    what a request costs beside its model.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS_BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(SECONDS_BUCKETS, seconds)] += 1
        self.sum += seconds


class SecondsByModel(Collector):
    """A histogram of seconds with a series for each model."""

    def __init__(self, name: str, text: str, registry: CollectorRegistry) -> None:
        self._name, self._text = name, text
        self._models: dict[str, Seconds] = {}
        registry.register(self)

    def labels(self, model: str) -> Seconds:
        """The series of ``model``."""
        return self._models.setdefault(model, Seconds())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What prometheus_client exposes."""
        family = HistogramMetricFamily(self._name, self._text, labels=["model"])
        bounds = [*(str(bound) for bound in SECONDS_BUCKETS), "+Inf"]
        for model, seconds in self._models.items():
            family.add_metric([model], list(zip(bounds, accumulate(seconds.counts), strict=True)), seconds.sum)
        yield family


class ModelMetrics:
    """One model's series, bound once so that observing costs no look-up."""

    def __init__(self, metrics: "Metrics", model: str, reasons: Iterable[str]) -> None:
        self.request_seconds = metrics.request_seconds.labels(model)
        self.queue_seconds = metrics.queue_seconds.labels(model)
        self.compute_seconds = metrics.compute_seconds.labels(model)
        self.encode_seconds = metrics.encode_seconds.labels(model)
        self.tick_rows = metrics.tick_rows.labels(model)
        self.queued_rows = metrics.queued_rows.labels(model)
        self.live_rows = metrics.live_rows.labels(model)
        self.images = metrics.images.labels(model)
        self.padding_rows = metrics.padding_rows.labels(model)
        self.cost_ratio = metrics.cost_ratio.labels(model)
        self.split_calls = metrics.split_calls.labels(model)
        self.out_of_memory = metrics.out_of_memory.labels(model)
        self.dropped_queued, self.dropped_running = (
            metrics.dropped_rows.labels(model, stage) for stage in ("queued", "running")
        )
        self.errors = {reason: metrics.errors.labels(model, reason) for reason in reasons}
        for outcome in get_args(Change):
            metrics.model_changes.labels(model, outcome)


class Metrics:
    """The registry of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.request_seconds = self._seconds("request", "From a request's arrival to its answer, when that is pictures")
        self.queue_seconds = self._seconds("queue", "From acceptance to the first tick that computes a row of it")
        self.compute_seconds = self._seconds("compute", "From that tick to the last row's picture on the host")
        self.encode_seconds = self._seconds("encode", "Turning pictures into the answer's format")
        self.tick_rows = Histogram(
            "genserve_tick_rows",
            "Rows in one network call",
            ["model"],
            buckets=ROW_BUCKETS,
            registry=self.registry,
        )
        self.queued_rows = self._gauge("queued_rows", "Rows accepted and not yet in the table", "model")
        self.live_rows = self._gauge("live_rows", "Rows in the table", "model")
        self.model_ready = self._gauge("model_ready", "1 when the model is verified and warmed", "model")
        self.model_info = self._gauge("model_info", "Which version of a model runs", "model", "family", "version")
        self.model_changes = self._counter("model_changes", "Loads, reloads, rollbacks, unloads", "model", "outcome")
        self.cost_ratio = self._gauge("cost_ratio", "What network calls cost of late over what warm-up found", "model")
        self.images = self._counter("images", "Pictures made", "model")
        self.errors = self._counter("errors", "Requests answered with an error", "model", "reason")
        self.dropped_rows = self._counter("dropped_rows", "Rows given up: nobody waited any more", "model", "stage")
        self.padding_rows = self._counter("padding_rows", "Rows computed only to fill a network call up", "model")
        self.split_calls = self._counter("split_calls", "Network calls that raised and were run in halves", "model")
        self.out_of_memory = self._counter("out_of_memory", "Network calls that the device had no room for", "model")

    def for_unknown_models(self, reasons: Iterable[str]) -> None:
        """Create the error series that requests for models that are not served share."""
        for reason in reasons:
            self.errors.labels(UNKNOWN_MODEL, reason)

    def for_model(self, model: str, reasons: Iterable[str]) -> ModelMetrics:
        """The bound series of ``model``, created at zero; ``reasons`` are the codes an error can have."""
        return ModelMetrics(self, model, reasons)

    def show_version(self, model: str, family: str, version: str) -> None:
        """Tell which version of ``model`` runs, in place of the one that ran before."""
        self.model_info.remove_by_labels({"model": model})
        self.model_info.labels(model, family, version).set(1)
        self.model_ready.labels(model).set(1)

    def forget(self, model: str) -> None:
        """Remove the gauges of a model that is served no more; what was counted stays counted."""
        for gauge in (self.queued_rows, self.live_rows, self.cost_ratio, self.model_ready, self.model_info):
            gauge.remove_by_labels({"model": model})

    def expose(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _seconds(self, stage: str, text: str) -> SecondsByModel:
        return SecondsByModel(f"genserve_{stage}_seconds", text, self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"genserve_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"genserve_{name}_total", text, labels, registry=self.registry)
