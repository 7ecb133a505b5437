"""The engine as the API sees it: submit rows to a model by name, get a job."""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from service.admission.gate import Ask, Gate
from service.admission.job import Job
from service.engine.device import Device
from service.engine.lane import Ended, Filmed, Lane
from service.engine.model import encoder_name
from service.engine.registry import Registry, Served
from service.engine.results import Latent, Picture, Progress
from service.engine.rows import RowSpec
from service.engine.table import LiveRow
from service.errors import ComputeFailed, ModelUnavailable, ServiceError
from service.metrics import Metrics
from service.settings import Settings

DRAIN_POLL_S = 0.01


class Engine:
    """A lane and a gate for each model and each encoder, over the device they share. Lives on one event loop."""

    def __init__(self, registry: Registry, device: torch.device, settings: Settings, metrics: Metrics) -> None:
        reasons = ServiceError.codes()
        self.lanes = {
            each.model.name: Lane(each.model, each.cost, settings, metrics.for_model(each.model.name, reasons))
            for each in _all_served(registry)
        }
        threads = settings.cpu_threads() if device.type == "cpu" else 1
        self._gates = {
            name: Gate(settings.max_queue_ms, settings.client_share, 1000.0 * threads) for name in self.lanes
        }
        for name, gate in self._gates.items():
            bound = self.lanes[name].metrics
            bound.accepted_work.set_function(lambda gate=gate: gate.accepted_ms / 1000)  # type: ignore[misc]
            bound.accepted_work_limit.set(settings.max_queue_ms / 1000)
        metrics.engine_threads.set(threads)
        self._device = Device(list(self.lanes.values()), threads, settings.tick_budget_ms, _deliver)
        self._draining = False

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self._device.start(asyncio.get_running_loop())

    def is_alive(self) -> bool:
        """Whether it serves, or has been told to stop."""
        return self._draining or self._device.is_alive()

    async def drain(self, within_s: float) -> None:
        """Accept nothing more, let accepted rows finish for at most ``within_s`` seconds, and stop."""
        self._draining = True
        give_up = time.monotonic() + within_s
        while not self._device.is_idle() and time.monotonic() < give_up:
            await asyncio.sleep(DRAIN_POLL_S)
        self._device.stop()

    def submit(self, model: str, rows: Sequence[RowSpec], client: str = "", within_s: float = math.inf) -> Job[Picture]:
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
        return self._submit(model, rows, client, within_s)

    def encode(self, model: str, rows: Sequence[RowSpec], client: str = "", within_s: float = math.inf) -> Job[Latent]:
        """``submit`` for rows of ``encode_row``, of a model that has an encoder: KeyError for one that has none.

        The job's future gives mean and log-variance of each, (2, *latent) float32.
        """
        return self._submit(encoder_name(model), rows, client, within_s)

    def invert(self, model: str, rows: Sequence[RowSpec], client: str = "", within_s: float = math.inf) -> Job[Latent]:
        """``submit`` for rows that end ``as_latent``, such as those of ``inversion_row``.

        The job's future gives the latent where each row's plan ends, (*latent) float32.
        """
        return self._submit(model, rows, client, within_s)

    def progress(self, lane: str, job: Job[Any]) -> Progress:
        """How far ``job`` is, which was submitted to ``lane``: a model, or an encoder by its ``encoder_name``."""
        ahead, calls_left = self._device.left(self.lanes[lane], job)
        most = max(calls_left.values(), default=0)
        eta_s = self._gates[lane].seconds_until_done(most, self.lanes[lane].cost.row_ms())
        return Progress(ahead, [calls_left.get(row, 0) for row in range(job.rows)], 1000 * eta_s)

    def _submit(self, name: str, rows: Sequence[RowSpec], client: str, within_s: float) -> Job[Any]:
        if self._draining:
            raise ModelUnavailable("The service is stopping.")
        lane, gate, now = self.lanes[name], self._gates[name], time.monotonic()
        ask = Ask(len(rows), max([row.calls for row in rows]), lane.cost.row_ms(), client, within_s)
        gate.admit(ask, now)

        def over(job: Job[Any]) -> None:
            gate.release(ask, time.monotonic(), finished=not job.cancelled)
            if job.cancelled:
                self._device.sweep(lane)

        job: Job[Any] = Job(len(rows), now + within_s, over)
        self._device.put(lane, [LiveRow(job, index, row) for index, row in enumerate(rows)])
        return job


def _all_served(registry: Registry) -> Iterator[Served]:
    for served in registry.served.values():
        yield served
        if served.encoder is not None:
            yield served.encoder


def _deliver(ended: Sequence[Ended], filmed: Sequence[Filmed], now: float) -> None:
    for row, preview in filmed:
        row.job.preview(preview)
    for row, outcome in ended:
        if isinstance(outcome, ComputeFailed):
            row.job.fail(outcome)
        else:
            row.job.deliver(row.index, outcome, now)
