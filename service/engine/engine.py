"""The engine as the API sees it: submit rows to a model by name, get a job."""

import asyncio
import time
from collections.abc import Sequence

import torch

from service.admission.gate import Gate
from service.admission.job import Job
from service.engine.device import Device
from service.engine.lane import Ended, Lane
from service.engine.registry import Registry
from service.engine.rows import RowSpec
from service.engine.table import LiveRow, Picture
from service.errors import ComputeFailed, ModelUnavailable, ServiceError
from service.metrics import Metrics
from service.settings import Settings

DRAIN_POLL_S = 0.01


class Engine:
    """A lane and a gate for each model, over the device they share. Lives on one event loop."""

    def __init__(self, registry: Registry, device: torch.device, settings: Settings, metrics: Metrics) -> None:
        reasons = ServiceError.codes()
        self.lanes = {
            name: Lane(served.model, served.cost, settings.table_rows, metrics.for_model(name, reasons))
            for name, served in registry.served.items()
        }
        self._gates = {name: Gate(settings.max_queue_ms) for name in self.lanes}
        threads = settings.cpu_threads() if device.type == "cpu" else 1
        self._device = Device(list(self.lanes.values()), threads, settings.tick_budget_ms, _deliver)
        self._draining = False

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self._device.start(asyncio.get_running_loop())

    async def drain(self, within_s: float) -> None:
        """Accept nothing more, let accepted rows finish for at most ``within_s`` seconds, and stop."""
        self._draining = True
        give_up = time.monotonic() + within_s
        while not self._device.is_idle() and time.monotonic() < give_up:
            await asyncio.sleep(DRAIN_POLL_S)
        self._device.stop()

    def submit(self, model: str, rows: Sequence[RowSpec]) -> Job[Picture]:
        """Accept the rows of one request.

        The job's future gives their pictures, (height, width, channel) uint8 each, in the order of ``rows``.

        Raises:
            Overloaded: the model's queue is full.
            ModelUnavailable: the service is stopping.
        """
        if self._draining:
            raise ModelUnavailable("The service is stopping.")
        lane, gate = self.lanes[model], self._gates[model]
        price_ms = lane.cost.price_ms(sum(row.calls for row in rows))
        gate.admit(price_ms)
        job: Job[Picture] = Job(len(rows), time.monotonic())

        def over(_: object) -> None:
            gate.release(price_ms)
            if job.cancelled:
                self._device.sweep(lane)

        job.future.add_done_callback(over)
        self._device.put(lane, [LiveRow(job, index, row) for index, row in enumerate(rows)])
        return job


def _deliver(ended: Sequence[Ended], now: float) -> None:
    for row, outcome in ended:
        if isinstance(outcome, ComputeFailed):
            row.job.fail(outcome)
        else:
            row.job.deliver(row.index, outcome, now)
