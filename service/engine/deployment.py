"""Deployments: one version of a model while it serves, with its lane, gate and metrics."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.admission.drain import DrainRate
from service.admission.gate import Gate
from service.admission.shared import SharedLoad
from service.engine.backend import Backend, LaneHandle
from service.engine.model import Model, Served
from service.engine.parts import decoder_of
from service.engine.table import most_rows
from service.errors import ServiceError
from service.metrics import Metrics, ModelMetrics
from service.settings import Settings


class Deployment(NamedTuple):
    """One version of a model, and of its encoder and text encoder, which have queues of their own; None without one.

    Versions of a model share its gate and its metrics. ``threads`` is how many threads serve it.
    """

    lane: LaneHandle
    gate: Gate
    metrics: ModelMetrics
    encoder: "Deployment | None" = None
    threads: int = 1
    text: "Deployment | None" = None

    @property
    def parts(self) -> "list[Deployment]":
        """Itself and those of its parts."""
        return [each for each in (self, self.encoder, self.text) if each is not None]

    @property
    def lanes(self) -> list[str]:
        """The names of its lanes in metrics."""
        decoder = decoder_of(self.model)
        return [each.model.name for each in self.parts] + ([] if decoder is None else [decoder.name])

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
    """Builds deployments, whose lanes are those of ``backend``. ``shared`` has the work of other API processes."""

    def __init__(self, settings: Settings, metrics: Metrics, backend: Backend, shared: SharedLoad | None) -> None:
        self._settings, self._metrics, self._backend, self._shared = settings, metrics, backend, shared

    def build(self, served: Served, replaced: Deployment | None) -> Deployment:
        """A deployment of ``served`` that takes over gate and metrics of ``replaced``.

        Raises whatever the table raises when there is no memory for it.
        """
        gate = replaced.gate if replaced else self._new_gate(served)
        metrics = replaced.metrics if replaced else self._bind_metrics(served.model.name)
        lane = self._backend.new_lane(served, gate.drain, metrics)
        encoder, text = (
            None if part is None else self.build(part, before)
            for part, before in (
                (served.encoder, replaced.encoder if replaced else None),
                (served.text, replaced.text if replaced else None),
            )
        )
        return Deployment(lane, gate, metrics, encoder, self._backend.threads, text)

    def _new_gate(self, served: Served) -> Gate:
        settings, drain = self._settings, DrainRate(1000.0 * self._backend.threads)
        table_rows = most_rows(served.model, settings.table_rows) * self._backend.engines
        others = None if self._shared is None or served.gate is None else self._shared.view(served.gate)
        return Gate(settings.max_queue_ms, settings.client_share, drain, table_rows, others)

    def _bind_metrics(self, name: str) -> ModelMetrics:
        metrics = self._metrics.for_model(name, ServiceError.codes())
        metrics.accepted_work_limit.set(self._settings.max_queue_ms / 1000)
        return metrics
