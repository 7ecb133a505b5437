"""One order while it is computed: accepted as a whole, then begun, then made, all within one time."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.requests import Request

from service import images
from service.admission.memory import Held
from service.api.order import Begin, Made, Order
from service.api.request.schemas import Showing
from service.api.response.expense import named
from service.api.state import State
from service.engine.engine import Accepted
from service.engine.results import Latent, Preview
from service.engine.rows import RowSpec
from service.engine.submission import Submission
from service.errors import DeadlineExceeded, TooExpensive
from service.metrics import Cancelled
from service.request_info import RequestInfo, info_of


class Deadline(NamedTuple):
    """Until when an answer is of use: ``given_s`` seconds after its request came, on the monotonic clock."""

    given_s: float
    ends_at: float

    def left_s(self) -> float:
        """Seconds from now on. Raises DeadlineExceeded when there are none."""
        left_s = self.ends_at - time.monotonic()
        if left_s <= 0:
            raise self.exceeded()
        return left_s

    def exceeded(self) -> DeadlineExceeded:
        """What a request or a job ends with that took longer."""
        return DeadlineExceeded(f"The pictures were not ready within {self.given_s:g} s; their work was dropped.")


def deadline_of(info: RequestInfo, asked: Showing, limit_s: float) -> Deadline:
    """By when ``asked`` is to be answered, which has up to ``limit_s``; ``info`` says when its request came."""
    given_s = limit_s if asked.timeout_ms is None else min(limit_s, asked.timeout_ms / 1000)
    return Deadline(given_s, info.arrived_at + given_s)


def client_of(request: Request) -> str:
    """Who asks: the address of the other end of the connection, which a sender cannot choose."""
    client = request.scope["client"]
    return client[0] if client else ""


def accept(request: Request, state: State, order: Order, limit_s: float) -> "Run":
    """Begin to compute ``order``, which may take ``limit_s`` from when ``request`` came; nothing was done for it yet.

    Raises MemoryFull, DeadlineExceeded, and as ``Engine.admit``.
    """
    info = info_of(request.scope)
    deadline = deadline_of(info, order.asked, limit_s)
    left_s = deadline.left_s()
    held = state.memory.hold(order.size)
    try:
        accepted = state.engine.admit(order.deployment, order.parts, client_of(request), left_s)
    except TooExpensive as refusal:
        held.release()
        raise named(refusal, order) from None
    except BaseException:
        held.release()
        raise
    return Run(order, accepted, held, deadline, info.arrived_at)


class Run:
    """An accepted order. ``make`` must be awaited: it gives back what was taken, however it ends.

    ``on_preview`` and ``on_result`` are called as those of ``Submission``; ``on_begin`` with the order as computed,
    before either.
    """

    on_begin: Callable[[Order], None] | None = None
    on_preview: Callable[[Preview], None] | None = None
    on_result: Callable[[int, images.Pixels], None] | None = None

    def __init__(self, order: Order, accepted: Accepted, held: Held, deadline: Deadline, arrived_at: float) -> None:
        self.order, self.accepted, self.deadline = order, accepted, deadline
        self._held, self._arrived_at = held, arrived_at
        self._film: list[Preview] = []
        self._failure: Exception | None = None
        self._beginning: asyncio.Task[Order] | None = None
        self._job: Submission[images.Pixels] | None = None
        if order.begin is None:
            self._job = self._submit()

    async def make(self) -> Made:
        """The pictures. Raises what ``give_up`` was called with, DeadlineExceeded, ComputeFailed, and as ``begin``."""
        loop, late = asyncio.get_running_loop(), self.deadline.exceeded
        left_s = self.deadline.ends_at - time.monotonic()
        timer = loop.call_later(left_s, lambda: self.give_up(late(), counted="too-late"))
        try:
            if self.order.begin is not None:
                self.order = await self._begin(self.order.begin)
                self._job = self._submit()
            assert self._job is not None
            return self._count(self._job, await self._job.future)
        finally:
            timer.cancel()
            self.accepted.close()
            self._held.release()

    def give_up(self, failure: Exception, counted: Cancelled | None = None) -> None:
        """End it with ``failure``, counted as ``counted``, unless it is over: what is not computed yet never is."""
        if self._failure is not None or (self._job is not None and self._job.done):
            return
        self._failure = failure
        if counted is not None:
            self.order.deployment.metrics.cancelled[counted].inc()
        if self._job is not None:
            self._job.fail(failure)
        elif self._beginning is not None:
            self._beginning.cancel()

    async def _begin(self, begin: Begin) -> Order:
        """The order with what its rows begin from, made in a task of its own, so that it can be stopped anywhere."""
        if self._failure is not None:
            raise self._failure
        self._beginning = asyncio.create_task(begin(self.order, self._compute))
        try:
            order = await self._beginning
        except asyncio.CancelledError:
            if self._failure is None:
                raise
        if self._failure is not None:
            raise self._failure
        order = order._replace(begin=None, before=(), uploads=None)
        self._held.resize(order.size)
        if self.on_begin is not None:
            self.on_begin(order)
        return order

    async def _compute(self, rows: Sequence[RowSpec]) -> Sequence[Latent]:
        """``rows`` of the next part before the pictures; by now files are decoded, and no longer held."""
        self._held.resize(self.order.size)
        job: Submission[Latent] = self.accepted.submit(rows)
        try:
            return await job.future
        finally:
            job.cancel()

    def _submit(self) -> Submission[images.Pixels]:
        job: Submission[images.Pixels] = self.accepted.submit(self.order.rows)
        job.on_preview, job.on_result = self._preview, self._result
        return job

    def _preview(self, preview: Preview) -> None:
        if self.order.asked.layout == "film":
            self._film.append(preview)
        if self.on_preview is not None:
            self.on_preview(preview)

    def _result(self, row: int, picture: images.Pixels) -> None:
        if self.on_result is not None:
            self.on_result(row, picture)

    def _count(self, job: Submission[images.Pixels], pictures: Sequence[images.Pixels]) -> Made:
        """What ``job`` made, counted: how long it took from the first row of any part on."""
        assert self.accepted.started_at is not None
        assert job.finished_at is not None
        queue_s = self.accepted.started_at - self._arrived_at
        made = Made(pictures, queue_s, job.finished_at - self.accepted.started_at, self._film)
        metrics = self.order.deployment.metrics
        metrics.images.inc(len(pictures))
        metrics.queue_seconds.observe(made.queue_s)
        metrics.compute_seconds.observe(made.compute_s)
        return made
