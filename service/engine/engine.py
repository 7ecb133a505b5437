"""The engine as the API sees it: submit rows to a deployed model, get a job.

A request holds the deployment that it began with, so that all of it is computed by one version. A deployment that was
replaced serves those that hold it, and goes, its model's memory with it, when the last of them is answered.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch

from service.admission.drain import DrainRate
from service.admission.gate import Ask, Gate
from service.admission.job import Job
from service.engine.device import Device
from service.engine.lane import Ended, Filmed, Lane, fault_of_ours
from service.engine.model import Model
from service.engine.registry import Served, threads_of
from service.engine.results import Latent, Picture, Progress
from service.engine.rows import RowSpec
from service.engine.table import LiveRow
from service.errors import ComputeFailed, ModelUnavailable, ServiceError
from service.metrics import Metrics, ModelMetrics
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

    @property
    def model(self) -> Model:
        """What it computes with."""
        return self.lane.model


class Engine:
    """The deployed models, over the device they share. Lives on one event loop."""

    def __init__(
        self, served: Mapping[str, Served], device: torch.device, settings: Settings, metrics: Metrics
    ) -> None:
        #: The version of each model that new requests get.
        self.deployments: dict[str, Deployment] = {}
        self._settings, self._metrics = settings, metrics
        self._threads = threads_of(device, settings)
        self._device = Device(self._threads, settings.tick_budget_ms, deliver)
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

    def lend(self, work: Callable[[], Result]) -> Future[Result]:
        """See ``Device.lend``: ``work`` takes its turn among the ticks."""
        return self._device.lend(work)

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
    ) -> Job[Picture]:
        """Accept the rows of one request of ``client``, of no use to it after ``within_s`` seconds.

        The job's future gives their pictures, (height, width, channel) uint8 each, in the order of ``rows``, each of
        which is priced as the longest is. Rows that are late are not computed, but it is for the caller to tell the
        client.

        Raises:
            ShareExceeded: too much of the queue is this client's.
            Overloaded: the model's queue is full.
            TooLate: it is too long for an answer in time.
            ModelUnavailable: the service is stopping.
        """
        return self._submit(deployment, rows, client, within_s)

    def encode(
        self, deployment: Deployment, rows: Sequence[RowSpec], client: str = "", within_s: float = math.inf
    ) -> Job[Latent]:
        """``submit`` for rows of ``encode_row``. Raises ValueError when the deployment has no encoder.

        The job's future gives mean and log-variance of each, (2, *latent) float32.
        """
        if deployment.encoder is None:
            raise ValueError(f"{deployment.model.name} has no encoder")
        return self._submit(deployment.encoder, rows, client, within_s)

    def invert(
        self, deployment: Deployment, rows: Sequence[RowSpec], client: str = "", within_s: float = math.inf
    ) -> Job[Latent]:
        """``submit`` for rows that end ``as_latent``, such as those of ``inversion_row``.

        The job's future gives the latent where each row's plan ends, (*latent) float32.
        """
        return self._submit(deployment, rows, client, within_s)

    def progress(self, deployment: Deployment, job: Job[Any]) -> Progress:
        """How far ``job`` is, which was submitted to ``deployment``, or encoded by what is its ``encoder``."""
        lane, gate = deployment.lane, deployment.gate
        ahead, calls_left = self._device.left(lane, job)
        most = max(calls_left.values(), default=0)
        eta_ms = 1000 * gate.seconds_until_done(most, lane.cost.row_ms())
        if most:  # not before it would be done alone, when calls have few rows and each row costs more
            alone_rows = math.ceil(sum(calls_left.values()) / most / self._threads)
            eta_ms = max(eta_ms, most * lane.cost.call_ms(alone_rows))
        return Progress(ahead, [calls_left.get(row, 0) for row in range(job.rows)], eta_ms)

    def _submit(self, deployment: Deployment, rows: Sequence[RowSpec], client: str, within_s: float) -> Job[Any]:
        if self._draining:
            raise ModelUnavailable("The service is stopping.")
        if self._device.threads_left < self._threads:  # what is accepted now could wait for ever
            raise ModelUnavailable("The engine has stopped after a fault: the service must be restarted.")
        lane, gate, now = deployment.lane, deployment.gate, time.monotonic()
        ask = Ask(len(rows), max([row.calls for row in rows]), lane.cost.row_ms(), client, within_s)
        gate.admit(ask)

        def over(job: Job[Any]) -> None:
            gate.release(ask)
            if job.cancelled:
                self._device.sweep(lane)

        job: Job[Any] = Job(len(rows), now + within_s, over)
        self._device.put(lane, [LiveRow(job, index, row) for index, row in enumerate(rows)])
        return job

    def _deployment(self, served: Served, replaced: Deployment | None) -> Deployment:
        """What serves ``served``, through the door of what it replaces."""
        name = served.model.name
        gate = replaced.gate if replaced else self._new_gate()
        metrics = replaced.metrics if replaced else self._bind_metrics(name, gate)
        lane = Lane(served.model, served.cost, gate.drain, self._settings, metrics)
        if served.encoder is None:
            return Deployment(lane, gate, metrics)
        encoder = self._deployment(served.encoder, replaced.encoder if replaced else None)
        return Deployment(lane, gate, metrics, encoder)

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


def deliver(ended: Sequence[Ended], filmed: Sequence[Filmed], now: float) -> None:
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


def _fail(job: Job[Any]) -> None:
    log.exception("a result was not taken")
    job.fail(fault_of_ours())
