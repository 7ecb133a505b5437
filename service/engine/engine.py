"""The engine's interface: deploy models, admit requests for them, submit their rows.

A request keeps the deployment that it began with, so one version computes all of it. A replaced deployment serves the
requests that hold it; its memory is freed with the last of them.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence

from service.admission.shared import SharedLoad
from service.engine.accepted import Accepted
from service.engine.backend import Backend
from service.engine.deployment import Deployment, DeploymentBuilder
from service.engine.model import Served
from service.engine.pricing import Part, admit_all, check_price, default_picture_ms, price
from service.engine.progress import ProgressCache
from service.engine.results import Picture
from service.engine.rows import RowSpec
from service.engine.submission import Submission
from service.errors import ModelUnavailable
from service.metrics import Metrics
from service.settings import Settings

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.01


class Engine:
    """The deployed models, whose rows ``backend`` computes. Use it on one event loop.

    ``shared`` has the work that other API processes have admitted, None if there are no others.
    """

    def __init__(
        self, backend: Backend, settings: Settings, metrics: Metrics, shared: SharedLoad | None = None
    ) -> None:
        #: The version of each model that new requests get.
        self.deployments: dict[str, Deployment] = {}
        self._backend, self._settings, self._metrics = backend, settings, metrics
        self._builder = DeploymentBuilder(settings, metrics, backend, shared)
        self._progress = ProgressCache(backend.progress)
        self._draining = False
        metrics.on_refresh(self._set_gauges)

    def is_alive(self) -> bool:
        """Whether no restart is needed: rows are or will be computed, or the engine is draining."""
        return self._draining or self._backend.is_alive()

    @property
    def fault(self) -> str | None:
        """Why rows are not computed now; None while they are, or the engine is draining."""
        return None if self._draining else self._backend.fault

    async def drain(self, within_s: float) -> None:
        """Accept nothing more, let accepted rows finish for at most ``within_s`` seconds, and stop."""
        self._draining = True
        give_up = time.monotonic() + within_s
        while self._backend.working and time.monotonic() < give_up:
            await asyncio.sleep(DRAIN_POLL_S)
        self._backend.stop()

    def build(self, served: Served) -> Deployment:
        """A deployment of ``served``, not yet serving. Raises whatever its table raises when there is no memory."""
        return self._builder.build(served, self.deployments.get(served.model.name))

    def deploy(self, deployment: Deployment) -> Deployment | None:
        """Give new requests ``deployment``, made by ``build``; returns the one that it replaces."""
        manifest = deployment.model.manifest
        replaced = self.deployments.get(manifest.name)
        self.deployments[manifest.name] = deployment
        for part in {*replaced.lanes} - {*deployment.lanes} if replaced else ():
            self._metrics.forget(part)
        self._warn_if_expensive(deployment)
        self._metrics.show_version(manifest.name, manifest.family, manifest.version, manifest.artifact.sha256)
        return replaced

    def withdraw(self, name: str) -> Deployment:
        """Stop serving the model to new requests; returns its deployment."""
        withdrawn = self.deployments.pop(name)
        for part in withdrawn.lanes:
            self._metrics.forget(part)
        return withdrawn

    def submit(
        self, deployment: Deployment, rows: Sequence[RowSpec], client: str = "", within_s: float = math.inf
    ) -> Submission[Picture]:
        """Admit and queue a request of one part, each row priced as the longest.

        The job's future returns a picture per row, (height, width, channel) uint8, in the order of ``rows``. Late rows
        are not computed; the caller reports that to the client. Raises ServiceError as ``admit``.
        """
        part = Part(len(rows), max([row.calls for row in rows]))
        return self.admit(deployment, [part], client, within_s).submit(rows)

    def admit(
        self, deployment: Deployment, parts: Sequence[Part], client: str = "", within_s: float = math.inf
    ) -> Accepted:
        """Admit a whole request of ``client`` with a deadline in ``within_s`` seconds.

        The price of all ``parts`` is reserved now; they are computed one after another.

        Raises:
            TooExpensive: it takes more device time than one request may.
            ShareExceeded: the client has its share of the queue.
            Overloaded: the queue of the model, or of its encoder, is full.
            TooLate: the queue is too long to meet the deadline.
            ModelUnavailable: the service is stopping, or an engine thread has failed.
            ValueError: a part needs an encoder and the model has none.
        """
        if self._draining:
            raise ModelUnavailable("The service is stopping.")
        if not self._backend.accepts:  # rows accepted now might never be served
            raise ModelUnavailable("The engine has stopped after a fault: the service must be restarted.")
        priced = [price(deployment, part, client, within_s) for part in parts]
        check_price(deployment, priced, self._settings.request_limit_ms)
        admit_all(priced)
        return Accepted(self._backend, self._progress, priced, within_s)

    def _set_gauges(self) -> None:
        """Called when metrics are read: keeping them up to date would cost every request."""
        for each in self.deployments.values():
            for part in each.parts:
                part.metrics.accepted_work.set(part.gate.accepted_ms / 1000)

    def _warn_if_expensive(self, deployment: Deployment) -> None:
        """Log a model whose default picture exceeds the limit of a request: it accepts nothing above that picture."""
        picture_ms, limit_ms = default_picture_ms(deployment), self._settings.request_limit_ms
        if picture_ms > limit_ms:
            about = {"model": deployment.model.name, "picture_ms": picture_ms, "limit_ms": limit_ms}
            log.warning("one picture takes longer than GENSERVE_MAX_REQUEST_MS allows a request", extra=about)
