"""Every metric of the service: names, labels and buckets are defined here only.

Label values come from closed sets (loaded models, the codes of the error tree), so that no request can add a series.
All series of a model exist from the moment it is registered. Several processes can count together: what one of them
exposes is then the sum.
"""

import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.series.families import Counters, Gauges, Histograms
from service.series.kinds import Counter, Merge, largest, latest, total
from service.series.process import ProcessUse
from service.series.store import Store

#: x1.6 from 100 microseconds to 30 seconds: small models answer in under a millisecond, 1,000-step jobs in seconds.
#: Rounded to three digits because alerts and queries name them.
SECONDS_BUCKETS = (*(float(f"{1e-4 * 1.6**power:.3g}") for power in range(27)), 30.0)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

#: Outcome of a change of a model: another version serves, nothing had to be done, the change failed, it was unloaded.
Change = Literal["swapped", "unchanged", "failed", "unloaded"]

#: Value of the label `model` for requests that name a model which is not served.
UNKNOWN_MODEL = "_unknown"

#: Why a row has no picture: its forward pass raised, its result is NaN or infinite, or the engine itself failed.
FailedRow = Literal["raised", "not-finite", "engine"]
#: Why accepted work is dropped: the client closed the connection, or the deadline passed.
Cancelled = Literal["client-left", "too-late"]

#: Why the service closed a connection: there were too many, or its client read too slowly; "memory" if only too slowly
#: for what waited in memory for all of them.
Closed = Literal["too-many", "slow-reader", "memory"]

AnyFamily = TypeVar("AnyFamily", Counters, Gauges, Histograms)


class ModelMetrics:
    """The series of one model, bound once so that an observation needs no look-up."""

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


class Metrics(Collector):
    """The metrics of one service: of this process alone, or with ``shared`` of several."""

    def __init__(self, store: Store | None = None) -> None:
        """``shared`` makes those of several processes; the default is in memory."""
        self._store = store or Store()
        self._families: list[Counters | Gauges | Histograms] = []
        self._updates: tuple[Callable[[], None], ...] = ()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._define_times()
        self._define_work()
        self._define_failures()
        self._define_what_runs()
        self._define_processes()

    @classmethod
    def shared(cls, folder: Path, slot: str) -> "Metrics":
        """The metrics that all processes with this ``folder`` count in; at any time one process has a ``slot``.

        The counters go on from those of the slot's previous process; its gauges are removed. Raises OSError when there
        is no room, ValueError for a slot that is not of the form `api-0` and for a damaged folder.
        """
        return cls(Store(folder, slot))

    def on_refresh(self, update: Callable[[], None]) -> None:
        """Have every ``refresh`` call ``update``, which sets gauges that would cost too much to keep up to date."""
        self._updates = (*self._updates, update)

    def refresh(self) -> None:
        """Set this process's gauges, and learn of the series that other processes have added.

        Exposing does it first. With several processes each repeats it every second, since nobody asks most of them.
        """
        for update in self._updates:
            update()
        self._store.sync()

    def ended(self, slot: str) -> None:
        """Remove the gauges of a process that has ended; its counters stay. Call it before ``slot`` is used again."""
        self._store.sync()
        for family in self._families:
            if isinstance(family, Gauges):
                family.clear(slot)

    def _define_times(self) -> None:
        self.request_seconds = self._seconds(
            "request", "From a request's arrival to its response, for responses with pictures"
        )
        self.queue_seconds = self._seconds("queue", "Part of it: until the first tick that computes one of its rows")
        self.compute_seconds = self._seconds("compute", "Part of it: from there until its last picture is on the host")
        self.encode_seconds = self._seconds(
            "encode", "Part of it: from there on, encoding the pictures and building the response"
        )

    def _define_work(self) -> None:
        self.tick_rows = self._histogram("tick_rows", "Rows in one forward pass", ROW_BUCKETS)
        self.padding_rows = self._counter(
            "padding_rows", "Rows computed only to fill a forward pass up to its fixed size", "model"
        )
        self.steps = self._counter("steps", "Solver steps computed, counted per picture", "model")
        self.images = self._counter("images", "Pictures generated", "model")
        self.queued_rows = self._gauge(
            total, "queued_rows", "Accepted rows that wait for a place in the table", "model"
        )
        self.live_rows = self._gauge(total, "live_rows", "Rows in the table", "model")
        self.table_rows = self._gauge(largest, "table_rows", "Places in the table of an engine", "model")
        self.accepted_work = self._gauge(
            total, "accepted_work_seconds", "Predicted device time of accepted, unfinished work", "model"
        )
        self.accepted_work_limit = self._gauge(
            latest, "accepted_work_limit_seconds", "Limit of the accepted work", "model"
        )
        self.device_seconds = self._counter("device_seconds", "Time that engine threads spent in ticks", "model")
        self.cost_ratio = self._gauge(
            largest, "cost_ratio", "Recent cost of a forward pass over the cost measured at warm-up", "model"
        )
        self.jobs = self._gauge(latest, "jobs", "Jobs in memory", "state")

    def _define_failures(self) -> None:
        self.errors = self._counter("errors", "Requests that ended with an error", "model", "reason")
        self.cancelled = self._counter("cancelled", "Accepted requests that were dropped", "model", "reason")
        self.dropped_rows = self._counter(
            "dropped_rows", "Rows that were dropped because their request was cancelled", "model", "stage"
        )
        self.failed_rows = self._counter("failed_rows", "Rows without a usable picture", "model", "reason")
        self.split_calls = self._counter(
            "split_calls", "Forward passes that raised and were run again in halves", "model"
        )
        self.out_of_memory = self._counter("out_of_memory", "Forward passes that ran out of device memory", "model")
        self.background_failures = self._counter(
            "background_failures", "Background steps that raised; they are repeated", "step"
        )
        self.process_deaths = self._counter(
            "process_deaths", "Processes of the service that ended unasked and were replaced", "kind"
        )
        self.closed_connections = self._counter("closed_connections", "Connections that a limit closed", "reason")
        for reason in get_args(Closed):
            self.closed_connections.labels(reason)
        self.lost_log_lines = self._counter(
            "lost_log_lines", "Access log lines lost because standard error was not read"
        ).labels()

    def _define_what_runs(self) -> None:
        self.model_ready = self._gauge(latest, "model_ready", "1 when the model is verified and warmed up", "model")
        self.model_info = self._gauge(
            latest, "model_info", "The version of a model that new requests get", "model", "family", "version", "sha256"
        )
        self.model_changes = self._counter("model_changes", "Loads, reloads, rollbacks, unloads", "model", "outcome")
        self.build_info = self._gauge(
            latest, "build_info", "Versions of the service, torch and Python", "version", "torch", "python", "commit"
        )
        self.gpu_memory_used = self._gauge(latest, "gpu_memory_used_bytes", "GPU memory in use by all processes", "gpu")
        self.gpu_memory = self._gauge(latest, "gpu_memory_bytes", "Total GPU memory", "gpu")
        self.gpu_utilization = self._gauge(
            latest, "gpu_utilization_ratio", "Recent fraction of the time with a kernel running", "gpu"
        )

    def _define_processes(self) -> None:
        self.engine_threads = self._gauge(total, "engine_threads", "Engine threads").labels()
        self.threads = self._gauge(total, "threads", "Python threads, of all processes").labels()
        use = ProcessUse(self._store)
        self._families += use.families
        self.on_refresh(lambda: self.threads.set(threading.active_count()))
        self.on_refresh(use.refresh)

    def show_build(self, version: str, torch: str, commit: str) -> None:
        """Set the labels of the build."""
        self.build_info.labels(version, torch, platform.python_version(), commit).set(1)

    def show_version(self, model: str, family: str, version: str, sha256: str) -> None:
        """Set the version that new requests for ``model`` get, replacing the previous one."""
        self.model_info.remove(model=model)
        self.model_info.labels(model, family, version, sha256).set(1)
        self.model_ready.labels(model).set(1)

    def count_jobs(self, open: Callable[[], float], ended: Callable[[], float]) -> None:
        """Have each refresh call ``open`` (jobs that have not ended) and ``ended`` (ended jobs that are kept)."""

        def update() -> None:
            self.jobs.labels("open").set(open())
            self.jobs.labels("ended").set(ended())

        self.on_refresh(update)

    def for_unknown_models(self, reasons: Iterable[str]) -> None:
        """Create the error series of requests that name a model which is not served."""
        for reason in reasons:
            self.errors.labels(UNKNOWN_MODEL, reason)

    def for_model(self, model: str, reasons: Iterable[str]) -> ModelMetrics:
        """The series of ``model``, created at zero; ``reasons`` are the possible error codes."""
        return ModelMetrics(self, model, reasons)

    def forget(self, model: str) -> None:
        """Remove the gauges of an unloaded model, in all processes; its counters stay."""
        self._store.sync()
        work = (self.queued_rows, self.live_rows, self.table_rows, self.accepted_work, self.accepted_work_limit)
        for gauge in (*work, self.cost_ratio, self.model_ready, self.model_info):
            gauge.remove(model=model)

    def collect(self) -> Iterator[Metric]:
        """All metrics, refreshed, of all processes."""
        self.refresh()
        for family in self._families:
            yield from family.collect()

    def expose(self) -> bytes:
        """All metrics, refreshed, of all processes, in Prometheus' text format."""
        self.refresh()
        return "".join(line for family in self._families for line in family.expose()).encode()

    def _seconds(self, stage: str, text: str) -> Histograms:
        return self._histogram(f"{stage}_seconds", text, SECONDS_BUCKETS)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histograms:
        return self._add(Histograms(self._store, f"genserve_{name}", text, ("model",), buckets))

    def _gauge(self, merge: Merge, name: str, text: str, *labels: str) -> Gauges:
        """``merge``: how the values of several processes become one."""
        return self._add(Gauges(self._store, f"genserve_{name}", text, labels, merge))

    def _counter(self, name: str, text: str, *labels: str) -> Counters:
        return self._add(Counters(self._store, f"genserve_{name}", text, labels))

    def _add(self, family: AnyFamily) -> AnyFamily:
        self._families.append(family)
        return family
