"""One order while it is computed: admitted as a whole, then prepared, then computed, all before one deadline."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from starlette.requests import ClientDisconnect, Request

from service import images
from service.admission.memory import Reservation
from service.api.order import Begin, Order, Output
from service.api.response.expense import with_fields
from service.api.state import State, client_of
from service.engine.accepted import Accepted
from service.engine.results import Latent, Preview
from service.engine.rows import RowSpec
from service.engine.submission import Submission
from service.errors import DeadlineExceeded, RateExceeded, TooExpensive
from service.metrics import Cancelled
from service.request_info import info_of


class Deadline(NamedTuple):
    """``ends_at`` on the monotonic clock, ``limit_s`` seconds after the request arrived."""

    limit_s: float
    ends_at: float

    def left_s(self) -> float:
        """Seconds until then. Raises DeadlineExceeded when there are none."""
        left_s = self.ends_at - time.monotonic()
        if left_s <= 0:
            raise self.exceeded()
        return left_s

    def exceeded(self) -> DeadlineExceeded:
        """The error of a request or job that takes longer."""
        return DeadlineExceeded(f"The pictures were not ready within {self.limit_s:g} s; their work was dropped.")


def deadline_of(arrived_at: float, timeout_ms: int | None, limit_s: float) -> Deadline:
    """The deadline of a request that arrived at ``arrived_at``: ``timeout_ms``, but at most ``limit_s``."""
    limit_s = limit_s if timeout_ms is None else min(limit_s, timeout_ms / 1000)
    return Deadline(limit_s, arrived_at + limit_s)


async def execute(request: Request, state: State, order: Order) -> tuple[Order, Output]:
    """The order as it was computed, and its output.

    Raises as ``admit`` and ``Execution.run``; ClientDisconnect when the client closes the connection.
    """
    execution = admit(request, state, order, state.settings.request_timeout_s)
    disconnect = info_of(request.scope).disconnect
    disconnect.on_disconnect(lambda: execution.stop(ClientDisconnect(), counted="client-left"))
    try:
        output = await execution.run()
        return execution.order, output
    finally:
        disconnect.clear()


def admit(request: Request, state: State, order: Order, limit_s: float) -> "Execution":
    """Admit ``order``, which must be done ``limit_s`` seconds after ``request`` arrived. Computes nothing.

    The price is taken from the bucket of the request's API key, and not given back.
    Raises MemoryFull, DeadlineExceeded, RateExceeded, and as ``Engine.admit``.
    """
    info = info_of(request.scope)
    arrived_at, bucket = info.arrived_at, None if info.caller is None else info.caller.bucket
    if bucket is not None and (wait_s := bucket.wait_s()):
        raise RateExceeded(bucket.rate_ms_per_s, wait_s)
    deadline = deadline_of(arrived_at, order.asked.timeout_ms, limit_s)
    left_s = deadline.left_s()
    reservation = state.memory.reserve(order.size)
    try:
        accepted = state.engine.admit(order.deployment, order.parts, client_of(request), left_s)
    except TooExpensive as rejection:
        reservation.release()
        raise with_fields(rejection, order) from None
    except BaseException:
        reservation.release()
        raise
    if bucket is not None:
        bucket.take(accepted.price_ms)
    return Execution(order, accepted, reservation, deadline, arrived_at)


class Execution:
    """An admitted order. ``run`` must be awaited, or ``discard`` called: both give back memory and device time.

    ``on_begin`` is called with the order as it is computed, before any preview or result; ``on_preview`` and
    ``on_result`` as those of ``Submission``. They are set before the rows are queued.
    """

    on_begin: Callable[[Order], None] | None = None
    on_preview: Callable[[Preview], None] | None = None
    on_result: Callable[[int, images.Pixels], None] | None = None

    def __init__(
        self, order: Order, accepted: Accepted, reservation: Reservation, deadline: Deadline, arrived_at: float
    ) -> None:
        self.order, self.accepted = order, accepted
        self._reservation, self._deadline, self._arrived_at = reservation, deadline, arrived_at
        self._film: list[Preview] = []
        self._stopped_by: tuple[Exception, Cancelled | None] | None = None
        self._timeout: asyncio.Timeout | None = None
        self._submission: Submission[images.Pixels] | None = None

    def discard(self) -> None:
        """Give back memory and device time of an order that is not run."""
        self.accepted.close()
        self._reservation.release()

    def enqueue(self) -> Submission[images.Pixels] | None:
        """Queue the rows, unless they are queued already; None where they must be prepared first."""
        if self._submission is None and self.order.begin is None:
            self._submission = self.accepted.submit(self.order.rows)
            self._submission.on_preview = self.on_preview if self.order.layout.film is None else self._keep_film
            self._submission.on_result = self.on_result
        return self._submission

    async def run(self) -> Output:
        """The pictures. Raises DeadlineExceeded, ComputeFailed, the failure given to ``stop``, and as ``begin``."""
        timeout = self._timeout = asyncio.timeout(self._deadline.ends_at - time.monotonic())
        try:
            async with timeout:
                self._check_stopped()
                if self.order.begin is not None:
                    await self._prepare(self.order.begin)
                    self._check_stopped()
                submission = self.enqueue()
                assert submission is not None
                return self._output(submission, await submission.future)
        except TimeoutError:
            if not timeout.expired():  # it was raised by `begin`
                raise
            self._raise_stopped()
        finally:
            self._timeout = None
            self.discard()

    def stop(self, failure: Exception, counted: Cancelled | None = None) -> None:
        """Make ``run`` raise ``failure``, counted as ``counted``; no effect once it has ended.

        The deadline is brought forward, so that both stop the work in the same way. The device time is free at once.
        """
        if self._stopped_by is None:
            self._stopped_by = failure, counted
            if self._timeout is not None and not self._timeout.expired():
                self._timeout.reschedule(0)  # first, or the cancelled rows would look like a cancelled task
            self.accepted.close()

    def _check_stopped(self) -> None:
        if self._stopped_by is not None:
            self._raise_stopped()

    def _raise_stopped(self) -> NoReturn:
        failure, counted = self._stopped_by or (self._deadline.exceeded(), "too-late")
        if counted is not None:
            self.order.deployment.metrics.cancelled[counted].inc()
        raise failure from None

    async def _prepare(self, begin: Begin) -> None:
        """Compute what the rows begin from; the uploads are decoded, and dropped."""
        order = await begin(self.order, self._compute)
        self.order = order._replace(begin=None, before=(), uploads=None, reading=None)
        self._reservation.resize(self.order.size)
        if self.on_begin is not None:
            self.on_begin(self.order)

    async def _compute(self, rows: Sequence[RowSpec]) -> Sequence[Latent]:
        """Results of ``rows``, the next part before the pictures. Files are decoded by then, and no longer held."""
        self._reservation.resize(self.order.size)
        self._check_stopped()
        submission: Submission[Latent] = self.accepted.submit(rows)
        try:
            return await submission.future
        finally:
            submission.cancel()

    def _keep_film(self, preview: Preview) -> None:
        self._film.append(preview)
        if self.on_preview is not None:
            self.on_preview(preview)

    def _output(self, submission: Submission[images.Pixels], pictures: Sequence[images.Pixels]) -> Output:
        """The output, counted in the metrics; its times start with the first row of any part."""
        assert self.accepted.started_at is not None
        assert submission.finished_at is not None
        queue_s = self.accepted.started_at - self._arrived_at
        output = Output(pictures, queue_s, submission.finished_at - self.accepted.started_at, self._film)
        metrics = self.order.deployment.metrics
        metrics.images.inc(len(pictures))
        metrics.queue_seconds.observe(output.queue_s)
        metrics.compute_seconds.observe(output.compute_s)
        return output
