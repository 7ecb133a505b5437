"""Every metric of the service: name, labels, buckets. Nobody else names one.

Label values come from closed sets (loaded models, the codes of the error tree), so that no request can add a series;
all series of a model exist from the moment it is registered.
"""

import platform
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

#: x1.6 from 100 microseconds to 30 seconds: small models answer in under a millisecond, 1,000-step jobs in seconds.
#: Three digits, for alerts and queries name them.
SECONDS_BUCKETS = (*(float(f"{1e-4 * 1.6**power:.3g}") for power in range(27)), 30.0)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

#: What became of a change of a model: another version serves, nothing was to do, it was refused, it was taken away.
Change = Literal["swapped", "unchanged", "failed", "unloaded"]

#: The model label of a request for a model that is not served.
UNKNOWN_MODEL = "_unknown"

#: Why a row has no picture: its forward pass raised, the result was NaN or infinite, or the engine itself failed.
FailedRow = Literal["raised", "not-finite", "engine"]
#: Why work that was accepted is dropped: nobody waits for it any more, or it could not be done in time.
Cancelled = Literal["client-left", "too-late"]


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
        self.table_rows = metrics.table_rows.labels(model)
        self.accepted_work = metrics.accepted_work.labels(model)
        self.accepted_work_limit = metrics.accepted_work_limit.labels(model)
        self.device_seconds = metrics.device_seconds.labels(model)
        self.steps = metrics.steps.labels(model)
        self.images = metrics.images.labels(model)
        self.padding_rows = metrics.padding_rows.labels(model)
        self.cost_ratio = metrics.cost_ratio.labels(model)
        self.split_calls = metrics.split_calls.labels(model)
        self.out_of_memory = metrics.out_of_memory.labels(model)
        self.dropped_queued, self.dropped_running = (
            metrics.dropped_rows.labels(model, stage) for stage in ("queued", "running")
        )
        self.errors = {reason: metrics.errors.labels(model, reason) for reason in reasons}
        self.cancelled: dict[Cancelled, Counter] = {
            reason: metrics.cancelled.labels(model, reason) for reason in get_args(Cancelled)
        }
        self.failed_rows: dict[FailedRow, Counter] = {
            reason: metrics.failed_rows.labels(model, reason) for reason in get_args(FailedRow)
        }
        for outcome in get_args(Change):
            metrics.model_changes.labels(model, outcome)


class Metrics:
    """The registry of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._define_times()
        self._define_work()
        self._define_failures()
        self._define_what_runs()

    def _define_times(self) -> None:
        self.request_seconds = self._seconds("request", "From a request's arrival to its answer, when that is pictures")
        self.queue_seconds = self._seconds("queue", "Of that, until the first tick that computes a row of it")
        self.compute_seconds = self._seconds("compute", "Of that, from there to the last row's picture on the host")
        self.encode_seconds = self._seconds("encode", "Of that, from there on: making the answer of the pictures")

    def _define_work(self) -> None:
        self.tick_rows = Histogram(
            "genserve_tick_rows",
            "Rows in one forward pass",
            ["model"],
            buckets=ROW_BUCKETS,
            registry=self.registry,
        )
        self.padding_rows = self._counter("padding_rows", "Padding rows in forward passes", "model")
        self.steps = self._counter("steps", "Solver steps made, each of one picture", "model")
        self.images = self._counter("images", "Pictures made", "model")
        self.queued_rows = self._gauge("queued_rows", "Rows accepted and not yet in the table", "model")
        self.live_rows = self._gauge("live_rows", "Rows in the table", "model")
        self.table_rows = self._gauge("table_rows", "Rows that the table has places for", "model")
        self.accepted_work = self._gauge(
            "accepted_work_seconds", "Predicted device time accepted and not finished", "model"
        )
        self.accepted_work_limit = self._gauge("accepted_work_limit_seconds", "Most of it that is accepted", "model")
        self.device_seconds = self._counter("device_seconds", "Time that engine threads spent on ticks", "model")
        self.cost_ratio = self._gauge("cost_ratio", "Recent cost of forward passes over their cost at warm-up", "model")
        self.jobs = self._gauge("jobs", "Jobs that are known", "state")

    def _define_failures(self) -> None:
        self.errors = self._counter("errors", "Requests answered with an error", "model", "reason")
        self.cancelled = self._counter("cancelled", "Accepted requests given up", "model", "reason")
        self.dropped_rows = self._counter("dropped_rows", "Rows given up: nobody waited any more", "model", "stage")
        self.failed_rows = self._counter("failed_rows", "Rows without a usable picture", "model", "reason")
        self.split_calls = self._counter("split_calls", "Forward passes that raised and were run in halves", "model")
        self.out_of_memory = self._counter("out_of_memory", "Forward passes that ran out of device memory", "model")
        self.background_failures = self._counter(
            "background_failures", "Steps beside the requests that raised; they are repeated", "step"
        )
        self.lost_log_lines = self._counter("lost_log_lines", "Requests not logged: standard error was not read")

    def _define_what_runs(self) -> None:
        self.model_ready = self._gauge("model_ready", "1 when the model is verified and warmed", "model")
        self.model_info = self._gauge(
            "model_info", "Which version of a model runs", "model", "family", "version", "sha256"
        )
        self.model_changes = self._counter("model_changes", "Loads, reloads, rollbacks, unloads", "model", "outcome")
        self.build_info = self._gauge(
            "build_info", "Which service runs, and on what", "version", "torch", "python", "commit"
        )
        self.engine_threads = self._gauge("engine_threads", "Threads that compute")
        self.threads = self._gauge("threads", "Threads of Python in this process")
        self.threads.set_function(threading.active_count)
        self.gpu_memory_used = self._gauge("gpu_memory_used_bytes", "Memory in use, by whomever", "gpu")
        self.gpu_memory = self._gauge("gpu_memory_bytes", "Memory that the GPU has", "gpu")
        self.gpu_utilization = self._gauge(
            "gpu_utilization_ratio", "Part of the time of late with a kernel running", "gpu"
        )
        ProcessCollector(registry=self.registry)

    def show_build(self, version: str, torch: str, commit: str) -> None:
        """Tell which service runs."""
        self.build_info.labels(version, torch, platform.python_version(), commit).set(1)

    def show_version(self, model: str, family: str, version: str, sha256: str) -> None:
        """Tell which version of ``model`` runs, in place of the one that ran before."""
        self.model_info.remove_by_labels({"model": model})
        self.model_info.labels(model, family, version, sha256).set(1)
        self.model_ready.labels(model).set(1)

    def count_jobs(self, open: Callable[[], float], ended: Callable[[], float]) -> None:
        """Ask how many jobs have not ended, and how many have and are kept, when somebody looks."""
        self.jobs.labels("open").set_function(open)
        self.jobs.labels("ended").set_function(ended)

    def for_unknown_models(self, reasons: Iterable[str]) -> None:
        """Create the error series that requests for models that are not served share."""
        for reason in reasons:
            self.errors.labels(UNKNOWN_MODEL, reason)

    def for_model(self, model: str, reasons: Iterable[str]) -> ModelMetrics:
        """The bound series of ``model``, created at zero; ``reasons`` are the codes an error can have."""
        return ModelMetrics(self, model, reasons)

    def forget(self, model: str) -> None:
        """Remove the gauges of a model that is served no more; what was counted stays counted."""
        work = (self.queued_rows, self.live_rows, self.table_rows, self.accepted_work, self.accepted_work_limit)
        for gauge in (*work, self.cost_ratio, self.model_ready, self.model_info):
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
