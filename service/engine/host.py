"""The engine of this process: its threads, the lanes that they serve, and the metrics of these."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import torch

from service.admission.drain import DrainRate
from service.engine.cost import CostModel
from service.engine.delivery import deliver
from service.engine.device import Deliver, Device, Pulse, Schedule, thread_count
from service.engine.lane import Lane
from service.engine.model import Model, Served
from service.engine.parts import decoder_of, resized
from service.engine.progress import LaneProgress, remaining_by_job
from service.engine.rows import Size
from service.engine.submission import Job
from service.engine.table import LiveRow
from service.errors import ServiceError
from service.metrics import Metrics, ModelMetrics
from service.settings import Settings

Result = TypeVar("Result")

#: Slots of a table for pictures of another size than the model's own: there may be many sizes.
SIZED_ROWS = 32


class Host:
    """Computes rows on ``device``: the backend of an ``Engine`` in the same process, or behind a socket.

    ``deliver`` gets the results of every tick; ``pulse`` records what the threads do.
    """

    engines = 1
    #: False while it is a spare, whose threads do not count.
    serving = True

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
        decoder = None if served.decoder is None else (served.decoder.model, served.decoder.cost)
        return self._new_lane(served.model, served.cost, drain, metrics, decoder, self._settings)

    def put(self, lane: Lane, rows: Sequence[LiveRow]) -> None:
        """Queue the rows of one job, all of one size. Raises ValueError for a size that the model does not support."""
        size = rows[0].spec.size
        if size is not None and size != tuple(lane.model.manifest.image_shape[1:]):
            lane = self._device.branch(lane, size, partial(self._sized, lane, size))
        self._device.put(lane, rows)

    def _new_lane(
        self,
        model: Model,
        cost: CostModel,
        drain: DrainRate,
        metrics: ModelMetrics,
        decoder: tuple[Model, CostModel] | None,
        settings: Settings,
    ) -> Lane:
        """A lane, with one for ``decoder`` if there is one."""
        decoding = None
        if decoder is not None:
            name = decoder[0].name
            decoder_metrics = self._models.get(name) or self._metrics.for_model(name, ServiceError.codes())
            self._models[name] = decoder_metrics
            decoding = Lane(*decoder, self._own_rate(), settings, decoder_metrics)
        return Lane(model, cost, drain, settings, metrics, decoding)

    def _sized(self, lane: Lane, size: Size) -> Lane:
        """A branch of ``lane`` for pictures of ``size``."""
        model = resized(lane.model, size)
        pixels = math.prod(size) / math.prod(lane.model.manifest.image_shape[1:])
        decoder = decoder_of(model)
        decoding = None
        if decoder is not None and lane.decoder is not None:
            decoding = decoder, lane.decoder.cost.scaled(pixels)
        settings = self._settings.model_copy(update={"table_rows": min(SIZED_ROWS, self._settings.table_rows)})
        rate, cost = self._own_rate(), lane.cost.scaled(pixels)
        branch = self._new_lane(model, cost, rate, lane.metrics, decoding, settings)
        branch.count_for(lane)
        return branch

    def _own_rate(self) -> DrainRate:
        """The rate of a branch, whose work counts for the lane that it is a branch of."""
        return DrainRate(1000.0 * self.threads)

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
        self._metrics.engine_threads.set(self._device.threads_left if self.serving else 0)
        busy = self._device.busy_lanes()
        for name, metrics in self._models.items():
            lanes = [lane for lane in busy if lane.model.name == name]  # of replaced versions too
            metrics.queued_rows.set(sum(lane.queued for lane in lanes))
            metrics.live_rows.set(sum(lane.live for lane in lanes))
