"""The engine of this process: its threads, the lanes that they serve, and the metrics of these."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar
from weakref import WeakValueDictionary

import torch

from service.admission.drain import DrainRate
from service.engine.delivery import deliver
from service.engine.device import Deliver, Device, Pulse, Schedule, thread_count
from service.engine.lane import Lane
from service.engine.model import Served
from service.engine.progress import LaneProgress, remaining_by_job
from service.engine.submission import Job
from service.engine.table import LiveRow
from service.metrics import Metrics, ModelMetrics
from service.settings import Settings

Result = TypeVar("Result")


class Host:
    """Computes rows on ``device``: the backend of an ``Engine`` in the same process, or behind a socket.

    ``deliver`` gets the results of every tick; ``pulse`` is told what the threads do.
    """

    engines = 1

    def __init__(
        self,
        device: torch.device,
        settings: Settings,
        metrics: Metrics,
        deliver: Deliver = deliver,
        pulse: Pulse | None = None,
    ) -> None:
        self.threads = thread_count(device, settings)
        self._settings = settings
        self._device = Device(self.threads, settings.tick_budget_ms, deliver, pulse)
        self._metrics = metrics
        #: Of the models that have a lane, by name.
        self._models: WeakValueDictionary[str, ModelMetrics] = WeakValueDictionary()
        metrics.on_refresh(self._set_gauges)

    def start(self, schedule: Schedule) -> None:
        """Start the engine threads; they call ``schedule(deliver, ...)`` with the results of a tick."""
        self._device.start(schedule)

    def stop(self) -> None:
        """End the threads after their running ticks."""
        self._device.stop()

    @property
    def fault(self) -> str | None:
        """A thread that has failed is not replaced: the state of its lane is unknown."""
        return None if self.is_alive() else "A thread has failed: restart the service."

    def is_alive(self) -> bool:
        """Whether all threads run."""
        return self._device.is_alive()

    @property
    def accepts(self) -> bool:
        """Whether rows put now would be served: no thread has failed."""
        return self._device.threads_left == self.threads

    @property
    def working(self) -> bool:
        """Whether a lane has rows and a thread is left to serve them."""
        return self._device.threads_left > 0 and not self._device.is_idle()

    def new_lane(self, served: Served, drain: DrainRate, metrics: ModelMetrics) -> Lane:
        """A lane for one version of a model. Raises whatever its table raises when there is no memory for it."""
        self._models[served.model.name] = metrics
        return Lane(served.model, served.cost, drain, self._settings, metrics)

    def put(self, lane: Lane, rows: Sequence[LiveRow]) -> None:
        """Queue the rows of one job."""
        self._device.put(lane, rows)

    def drop(self, lane: Lane, job: Job) -> None:  # noqa: ARG002
        """Drop the rows of ``job``, which is cancelled, before their next step."""
        self._device.sweep(lane)

    def progress(self, lane: Lane) -> LaneProgress:
        """The remaining work of the lane's jobs."""
        return remaining_by_job(self._device.snapshot(lane))

    def run_exclusive(self, work: Callable[[], Result]) -> Future[Result]:
        """Run ``work`` on an engine thread between two ticks; see ``Device.run_exclusive``."""
        return self._device.run_exclusive(work)

    def _set_gauges(self) -> None:
        """Called when metrics are read: keeping them up to date would cost every tick."""
        self._metrics.engine_threads.set(self._device.threads_left)
        busy = self._device.busy_lanes()
        for name, metrics in self._models.items():
            lanes = [lane for lane in busy if lane.model.name == name]  # of replaced versions too
            metrics.queued_rows.set(sum(lane.queued for lane in lanes))
            metrics.live_rows.set(sum(lane.live for lane in lanes))
