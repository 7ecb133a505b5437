"""The engine as the API sees it: submit rows to a deployed model, get a job.

A request holds the deployment that it began with, so that all of it is computed by one version. A deployment that was
replaced serves those that hold it, and goes, its model's memory with it, when the last of them is answered.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch

from service.admission.drain import DrainRate
from service.admission.gate import Ask, Gate
from service.engine.cost import CostModel
from service.engine.device import Device
from service.engine.lane import FinishedRow, Lane, PreviewedRow, engine_fault
from service.engine.model import Model, Served
from service.engine.progress import ProgressCache
from service.engine.results import Picture, Progress
from service.engine.rows import RowSpec
from service.engine.submission import Submission
from service.engine.table import LiveRow
from service.errors import ComputeFailed, ModelUnavailable, ServiceError, TooExpensive
from service.metrics import Metrics, ModelMetrics
from service.process import usable_cores
from service.settings import Settings

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.01

Result = TypeVar("Result")


class Deployment(NamedTuple):
    """One version of a model while it serves, and of its encoder, if it has one, which has a queue of its own.

    The gate and the metrics are the model's, whatever its version.
    """

    lane: Lane
    gate: Gate
    metrics: ModelMetrics
    encoder: "Deployment | None" = None
    #: How many threads serve it.
    threads: int = 1

    @property
    def model(self) -> Model:
        """What it computes with."""
        return self.lane.model

    def eta_ms(self, calls: Sequence[int]) -> float:
        """In how many milliseconds rows that have a place, and so many calls left each, will be done."""
        most = max(calls, default=0)
        if not most:
            return 0.0
        shared_ms = 1000 * self.gate.seconds_until_done(most, self.lane.cost.row_ms())
        # Not before it would be done alone, when calls have few rows and each row costs more.
        alone_rows = math.ceil(sum(calls) / most / self.threads)
        return max(shared_ms, most * self.lane.cost.forward_ms(alone_rows))


class Part(NamedTuple):
    """``rows`` that are computed together, each ``calls`` rows of network calls; by the model's encoder or itself."""

    rows: int
    calls: int
    encodes: bool = False


#: What a part asks for, and of which deployment.
Priced = tuple[Deployment, Ask]


class Engine:
    """The deployed models, over the device they share. Lives on one event loop."""

    def __init__(
        self, served: Mapping[str, Served], device: torch.device, settings: Settings, metrics: Metrics
    ) -> None:
        #: The version of each model that new requests get.
        self.deployments: dict[str, Deployment] = {}
        self._settings, self._metrics = settings, metrics
        self._threads = thread_count(device, settings)
        self._device = Device(self._threads, settings.tick_budget_ms, deliver)
        self._snapshots = ProgressCache(self._device.snapshot)
        self._draining = False
        metrics.engine_threads.set_function(lambda: self._device.threads_left)
        for each in served.values():
            self.deploy(self.build(each))

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self._device.start(asyncio.get_running_loop())

    def is_alive(self) -> bool:
        """Whether all of its threads serve, or it has been told to stop."""
        return self._draining or self._device.is_alive()

    async def drain(self, within_s: float) -> None:
        """Accept nothing more, let accepted rows finish for at most ``within_s`` seconds, and stop."""
        self._draining = True
        give_up = time.monotonic() + within_s
        while not self._device.is_idle() and self._device.threads_left and time.monotonic() < give_up:
            await asyncio.sleep(DRAIN_POLL_S)
        self._device.stop()

    def run_exclusive(self, work: Callable[[], Result]) -> Future[Result]:
        """See ``Device.run_exclusive``: ``work`` takes its turn among the ticks."""
        return self._device.run_exclusive(work)

    def build(self, served: Served) -> Deployment:
        """What would serve this version of a model. Raises whatever its tables raise when they find no memory."""
        return self._deployment(served, self.deployments.get(served.model.name))

    def deploy(self, deployment: Deployment) -> Deployment | None:
        """Give new requests for the model what ``build`` made; returns what they had until now."""
        name, model = deployment.model.name, deployment.model
        replaced = self.deployments.get(name)
        self.deployments[name] = deployment
        for each in filter(None, (deployment, deployment.encoder)):
            each.metrics.cost_ratio.set_function(partial(getattr, each.lane.cost, "ratio"))
        if replaced and replaced.encoder and not deployment.encoder:
            self._metrics.forget(replaced.encoder.model.name)
        self._warn_if_dear(deployment)
        manifest = model.manifest
        self._metrics.show_version(name, manifest.family, manifest.version, manifest.artifact.sha256)
        return replaced

    def withdraw(self, name: str) -> Deployment:
        """Take the model from new requests; returns what they had until now."""
        withdrawn = self.deployments.pop(name)
        self._metrics.forget(name)
        if withdrawn.encoder:
            self._metrics.forget(withdrawn.encoder.model.name)
        return withdrawn

    def submit(
        self, deployment: Deployment, rows: Sequence[RowSpec], client: str = "", within_s: float = math.inf
    ) -> Submission[Picture]:
        """Accept the rows of one request of ``client``, of no use to it after ``within_s`` seconds.

        The job's future gives their pictures, (height, width, channel) uint8 each, in the order of ``rows``, each of
        which is priced as the longest is. Rows that are late are not computed, but it is for the caller to tell the
        client.

        Raises:
            ServiceError: as ``admit``.
        """
        part = Part(len(rows), max([row.calls for row in rows]))
        return self.admit(deployment, [part], client, within_s).submit(rows)

    def admit(
        self, deployment: Deployment, parts: Sequence[Part], client: str = "", within_s: float = math.inf
    ) -> "Accepted":
        """Accept a request of ``client`` as a whole, of no use to it after ``within_s`` seconds.

        Its ``parts`` are computed one after another, and their price is taken now, before any of them.

        Raises:
            TooExpensive: it takes the model for longer than any one request may.
            ShareExceeded: too much of the queue is this client's.
            Overloaded: the queue of the model, or of its encoder, is full.
            TooLate: it is too long for an answer in time.
            ModelUnavailable: the service is stopping.
            ValueError: a part needs an encoder, and there is none.
        """
        if self._draining:
            raise ModelUnavailable("The service is stopping.")
        if self._device.threads_left < self._threads:  # what is accepted now could wait for ever
            raise ModelUnavailable("The engine has stopped after a fault: the service must be restarted.")
        priced = [_priced(deployment, part, client, within_s) for part in parts]
        self._check_price(deployment, priced)
        _admit(priced)
        return Accepted(self._device, self._snapshots, priced, within_s)

    def _check_price(self, deployment: Deployment, priced: "Sequence[Priced]") -> None:
        """Raise TooExpensive by the prices of warm-up: a request is not refused one minute and accepted the next."""
        price_ms = sum(ask.rows * ask.calls * on.lane.cost.warmup_row_ms() for on, ask in priced)
        limit_ms = self._settings.request_limit_ms
        if price_ms > limit_ms and price_ms > (least_ms := _picture_ms(deployment.model, deployment.lane.cost)):
            raise TooExpensive(price_ms / 1000, max(limit_ms, least_ms) / 1000)

    def _deployment(self, served: Served, replaced: Deployment | None) -> Deployment:
        """What serves ``served``, through the door of what it replaces."""
        name = served.model.name
        gate = replaced.gate if replaced else self._new_gate()
        metrics = replaced.metrics if replaced else self._bind_metrics(name, gate)
        lane = Lane(served.model, served.cost, gate.drain, self._settings, metrics)
        if served.encoder is None:
            return Deployment(lane, gate, metrics, None, self._threads)
        encoder = self._deployment(served.encoder, replaced.encoder if replaced else None)
        return Deployment(lane, gate, metrics, encoder, self._threads)

    def _warn_if_dear(self, deployment: Deployment) -> None:
        """Log a model of which one picture takes longer than a request may: its requests can have no more than that."""
        model = deployment.model
        price_ms, limit_ms = _picture_ms(model, deployment.lane.cost), self._settings.request_limit_ms
        if price_ms > limit_ms:
            about = {"model": model.name, "picture_ms": price_ms, "limit_ms": limit_ms}
            log.warning("one picture takes longer than GENSERVE_MAX_REQUEST_MS allows a request", extra=about)

    def _new_gate(self) -> Gate:
        settings, drain = self._settings, DrainRate(1000.0 * self._threads)
        return Gate(settings.max_queue_ms, settings.client_share, drain, settings.table_rows)

    def _bind_metrics(self, name: str, gate: Gate) -> ModelMetrics:
        """The model's series; gauges are asked when somebody looks, for setting them would cost every request.

        They ask for the lanes there are, for a lane that they held would never go.
        """
        metrics = self._metrics.for_model(name, ServiceError.codes())
        metrics.queued_rows.set_function(lambda: sum(lane.queued for lane in self._busy_lanes(name)))
        metrics.live_rows.set_function(lambda: sum(lane.live for lane in self._busy_lanes(name)))
        metrics.table_rows.set(self._settings.table_rows)
        metrics.accepted_work.set_function(lambda: gate.accepted_ms / 1000)
        metrics.accepted_work_limit.set(self._settings.max_queue_ms / 1000)
        return metrics

    def _busy_lanes(self, name: str) -> list[Lane]:
        """Of all of the model's versions."""
        return [lane for lane in self._device.busy_lanes() if lane.model.name == name]


class Accepted:
    """A request that was accepted: its parts are submitted one after another, and all of them are paid for.

    To be closed in any case, and used on the event loop only.
    """

    def __init__(self, device: Device, snapshots: ProgressCache, priced: Sequence[Priced], within_s: float) -> None:
        #: Rows of network calls that all of it takes.
        self.calls = sum(ask.rows * ask.calls for _, ask in priced)
        self._device, self._snapshots = device, snapshots
        self._expires_at = time.monotonic() + within_s
        self._to_come = deque(priced)
        self._submitted: list[_Submitted] = []

    @property
    def started_at(self) -> float | None:
        """When its first row began to be computed, on the monotonic clock; None: not yet."""
        return self._submitted[0].job.started_at if self._submitted else None

    def submit(self, rows: Sequence[RowSpec]) -> Submission[Any]:
        """Queue the ``rows`` of the next part, whose price is given back when the job is over.

        The job's future gives their results: pictures (height, width, channel) uint8; of rows that end ``as_latent``
        (*latent) float32; of an encoder mean and log-variance, (2, *latent) float32.
        """
        on, ask = self._to_come.popleft()

        def over(job: Submission[Any]) -> None:
            on.gate.release(ask)
            if job.cancelled:
                self._device.sweep(on.lane)

        job: Submission[Any] = Submission(len(rows), self._expires_at, over)
        self._submitted.append(_Submitted(on, job, [row.calls for row in rows]))
        self._device.put(on.lane, [LiveRow(job, index, row) for index, row in enumerate(rows)])
        return job

    def close(self) -> None:
        """Give up what is not done: its rows are not computed, and its price is given back."""
        for on, ask in self._to_come:
            on.gate.release(ask)
        self._to_come.clear()
        if self._submitted:
            self._submitted[-1].job.cancel()

    def progress(self) -> Progress:
        """How far it is, as it was at most ``progress.REFRESH_S`` seconds ago."""
        later = sum(ask.rows * ask.calls for _, ask in self._to_come)
        eta_ms = sum(1000 * on.gate.drain.seconds_for(ask.price_ms) for on, ask in self._to_come)
        if not self._submitted:
            return Progress(0, later, eta_ms)
        on, job, calls = self._submitted[-1]
        left = self._snapshots.remaining(on.lane, job, calls)
        return Progress(left.rows_ahead, later + sum(left.calls), eta_ms + on.eta_ms(left.calls))


class _Submitted(NamedTuple):
    """A part that was put into a lane: its job, and the calls of each of its rows."""

    on: Deployment
    job: Submission[Any]
    calls: Sequence[int]


def _priced(deployment: Deployment, part: Part, client: str, within_s: float) -> Priced:
    """What ``part`` asks for, and whom. Raises ValueError where that is an encoder and there is none."""
    on = deployment.encoder if part.encodes else deployment
    if on is None:
        raise ValueError(f"{deployment.model.name} has no encoder")
    return on, Ask(part.rows, part.calls, on.lane.cost.row_ms(), client, within_s)


def _admit(priced: Sequence[Priced]) -> None:
    """Have every gate accept its part of a request, or none. Raises as ``Gate.admit``."""
    by_gate: dict[Gate, list[Ask]] = {}
    for on, ask in priced:
        by_gate.setdefault(on.gate, []).append(ask)
    accepted: list[tuple[Gate, list[Ask]]] = []
    try:
        for gate, asks in by_gate.items():
            gate.admit(*asks)
            accepted.append((gate, asks))
    except ServiceError:
        for gate, asks in accepted:
            for ask in asks:
                gate.release(ask)
        raise


def _picture_ms(model: Model, cost: CostModel) -> float:
    """Device milliseconds of one picture by the model's defaults, as measured at warm-up."""
    defaults = model.manifest.defaults
    if defaults is None:
        return cost.warmup_row_ms()
    guided = defaults.guidance_scale != 1 and model.manifest.class_names
    return defaults.steps * (2 if guided else 1) * cost.warmup_row_ms()


def deliver(ended: Sequence[FinishedRow], filmed: Sequence[PreviewedRow], now: float) -> None:
    """Tell jobs what became of their rows, at ``now`` on the monotonic clock.

    A job that cannot take what it is given fails alone: the other rows of the tick are other requests'.
    """
    for row, preview in filmed:
        try:
            row.job.preview(preview)
        except Exception:
            _fail(row.job)
    for row, outcome in ended:
        try:
            if isinstance(outcome, ComputeFailed):
                row.job.fail(outcome)
            else:
                row.job.deliver(row.index, outcome, now)
        except Exception:
            _fail(row.job)


def _fail(job: Submission[Any]) -> None:
    log.exception("a result was not taken")
    job.fail(engine_fault())


def thread_count(device: torch.device, settings: Settings) -> int:
    """How many threads use the device at once: one a GPU's, as many as asked for or as the cores are worth a CPU."""
    return settings.engine_threads or usable_cores() if device.type == "cpu" else 1
