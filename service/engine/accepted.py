"""An accepted request: its parts are submitted one after another, and its price is held until each is done."""

import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from service.engine.backend import Backend
from service.engine.deployment import Deployment
from service.engine.parts import check_row
from service.engine.pricing import PricedPart
from service.engine.progress import ProgressCache
from service.engine.results import Progress
from service.engine.rows import RowSpec
from service.engine.submission import Submission
from service.engine.table import LiveRow


@lru_cache(maxsize=4096)
def number_of(client: str) -> int:
    """A number that stands for ``client`` in all processes: 63 bits, which an address cannot be chosen to match."""
    return int.from_bytes(blake2b(client.encode(errors="surrogatepass"), digest_size=8).digest(), "little") >> 1


class Accepted:
    """An accepted request. Close it in any case; use it on the event loop only."""

    def __init__(self, backend: Backend, progress: ProgressCache, parts: Sequence[PricedPart], within_s: float) -> None:
        #: Forward-pass rows of the whole request.
        self.calls = sum(part.calls for part in parts)
        #: Predicted device milliseconds of the whole request.
        self.price_ms = sum(part.ask.price_ms for part in parts)
        self._backend, self._progress = backend, progress
        self._expires_at = time.monotonic() + within_s
        self._pending = deque(parts)
        self._submitted: list[_Submitted] = []

    @property
    def started_at(self) -> float | None:
        """Seconds of the monotonic clock when its first row entered a tick; None before that."""
        return self._submitted[0].job.started_at if self._submitted else None

    def submit(self, rows: Sequence[RowSpec]) -> Submission[Any]:
        """Queue the ``rows`` of the next part; its price is released when the job ends.

        The job's future returns a result per row: a picture (height, width, channel) uint8; with ``as_latent`` the
        latent (*latent) float32; from an encoder mean and log-variance, (2, *latent) float32.

        Raises ValueError for rows that a model in diffusers' format cannot compute; see ``check_row``.
        """
        deployment, ask, _ = self._pending[0]
        if deployment.model.manifest.conditioning is not None:
            for row in rows:
                check_row(deployment.model, row)
        self._pending.popleft()

        def end(job: Submission[Any]) -> None:
            deployment.gate.release(ask)
            if job.cancelled:
                self._backend.drop(deployment.lane, job)

        job: Submission[Any] = Submission(len(rows), self._expires_at, end, number_of(ask.client))
        self._submitted.append(_Submitted(deployment, job, [row.calls for row in rows]))
        self._backend.put(deployment.lane, [LiveRow(job, index, row) for index, row in enumerate(rows)])
        return job

    def close(self) -> None:
        """Cancel what is not done and release its price."""
        for deployment, ask, _ in self._pending:
            deployment.gate.release(ask)
        self._pending.clear()
        if self._submitted:
            self._submitted[-1].job.cancel()

    def progress(self) -> Progress:
        """How far the request is, at most ``progress.REFRESH_S`` seconds old."""
        pending = sum(part.calls for part in self._pending)
        eta_ms = sum(1000 * on.gate.drain.seconds_for(ask.price_ms) for on, ask, _ in self._pending)
        if not self._submitted:
            return Progress(0, pending, eta_ms)
        on, job, calls = self._submitted[-1]
        remaining = self._progress.remaining(on.lane, job, calls)
        return Progress(remaining.rows_ahead, pending + sum(remaining.calls), eta_ms + on.eta_ms(remaining.calls))


class _Submitted(NamedTuple):
    """A part in a lane: its job, and the forward passes of each of its rows."""

    on: Deployment
    job: Submission[Any]
    calls: Sequence[int]
