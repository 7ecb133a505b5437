"""Deployments: one version of a model while it serves, with its lane, gate and metrics."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.admission.drain import DrainRate
from service.admission.gate import Gate
from service.engine.lane import Lane
from service.engine.model import Model, Served
from service.errors import ServiceError
from service.metrics import Metrics, ModelMetrics
from service.settings import Settings


class Deployment(NamedTuple):
    """One version of a model, and of its encoder, which has a queue of its own; None without one.

    Versions of a model share its gate and its metrics. ``threads`` is how many threads serve it.
    """

    lane: Lane
    gate: Gate
    metrics: ModelMetrics
    encoder: "Deployment | None" = None
    threads: int = 1

    @property
    def model(self) -> Model:
        """The model that computes its rows."""
        return self.lane.model

    def eta_ms(self, calls: Sequence[int]) -> float:
        """Milliseconds until rows in the table are done; ``calls`` are the forward passes left for each of them."""
        most = max(calls, default=0)
        if not most:
            return 0.0
        shared_ms = 1000 * self.gate.seconds_until_done(most, self.lane.cost.row_ms())
        # At least the time that they take alone: small forward passes cost more per row.
        alone_rows = math.ceil(sum(calls) / most / self.threads)
        return max(shared_ms, most * self.lane.cost.forward_ms(alone_rows))


class DeploymentBuilder:
    """Builds deployments."""

    def __init__(self, settings: Settings, metrics: Metrics, threads: int) -> None:
        self._settings, self._metrics, self._threads = settings, metrics, threads

    def build(self, served: Served, replaced: Deployment | None) -> Deployment:
        """A deployment of ``served`` that takes over gate and metrics of ``replaced``.

        Raises whatever the table raises when there is no memory for it.
        """
        name = served.model.name
        gate = replaced.gate if replaced else self._new_gate()
        metrics = replaced.metrics if replaced else self._bind_metrics(name)
        lane = Lane(served.model, served.cost, gate.drain, self._settings, metrics)
        encoder = None
        if served.encoder is not None:
            encoder = self.build(served.encoder, replaced.encoder if replaced else None)
        return Deployment(lane, gate, metrics, encoder, self._threads)

    def _new_gate(self) -> Gate:
        settings, drain = self._settings, DrainRate(1000.0 * self._threads)
        return Gate(settings.max_queue_ms, settings.client_share, drain, settings.table_rows)

    def _bind_metrics(self, name: str) -> ModelMetrics:
        """The model's series; the engine sets the gauges that change."""
        metrics = self._metrics.for_model(name, ServiceError.codes())
        metrics.table_rows.set(self._settings.table_rows)
        metrics.accepted_work_limit.set(self._settings.max_queue_ms / 1000)
        return metrics
