"""What an ``Engine`` needs of the place where rows are computed: this process (``host``) or others."""

from collections.abc import Sequence
from typing import Any, Protocol

from service.admission.drain import DrainRate
from service.engine.cost import CostModel
from service.engine.model import Model, Served
from service.engine.submission import Job
from service.engine.table import LiveRow
from service.metrics import ModelMetrics


class LaneHandle(Protocol):
    """A lane as requests see it. ``waiting`` is the number of requests with waiting rows; it may be outdated."""

    @property
    def model(self) -> Model: ...  # noqa: D102

    @property
    def cost(self) -> CostModel: ...  # noqa: D102

    @property
    def waiting(self) -> int: ...  # noqa: D102


class Backend(Protocol):
    """Computes rows. ``engines`` have ``threads`` threads together. ``accepts``: whether rows put now would be served.

    ``working``: whether rows are being computed, so that a drain must wait. Used on the event loop.
    """

    @property
    def engines(self) -> int: ...  # noqa: D102

    @property
    def threads(self) -> int: ...  # noqa: D102

    @property
    def accepts(self) -> bool: ...  # noqa: D102

    @property
    def working(self) -> bool: ...  # noqa: D102

    @property
    def fault(self) -> str | None:
        """Why rows are not computed now; None while everything runs."""

    def is_alive(self) -> bool:
        """Whether they will be computed without a restart of this process."""

    def stop(self) -> None:
        """Compute nothing more."""

    def new_lane(self, served: Served, drain: DrainRate, metrics: ModelMetrics) -> Any:  # noqa: ANN401
        """A lane for one version of a model; it keeps ``drain`` current."""

    def put(self, lane: Any, rows: Sequence[LiveRow]) -> None:  # noqa: ANN401
        """Queue the rows of one job in ``lane``, made by ``new_lane``."""

    def drop(self, lane: Any, job: Job) -> None:  # noqa: ANN401
        """Compute no more rows of ``job``, which is cancelled."""

    def progress(self, lane: Any) -> Any:  # noqa: ANN401
        """The remaining work of the lane's jobs (``progress.LaneProgress``), as far as it is known here."""
