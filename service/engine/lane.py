"""A lane: one model's queue, its row table, and the tick that serves rows of it."""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch

from service.admission.drain import DrainRate
from service.admission.queue import TIMES_FREE, RowQueue, Waiting
from service.engine.cost import CostModel
from service.engine.delivery import FinishedRow, PreviewedRow, engine_fault
from service.engine.model import Model
from service.engine.results import Picture, Preview
from service.engine.rows import RowSpec, Size
from service.engine.table import LiveRow, RowTable, Slots, most_rows
from service.engine.tick import Batch, StepResult, run_isolating
from service.engine.transfer import wait_for
from service.errors import ComputeFailed
from service.metrics import ModelMetrics
from service.sampling.solvers import EMPTY_PLAN
from service.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TickResult:
    """The outcome of a tick: the slots to serve again, the slots to free, and what goes to the rows' jobs.

    ``forward_rows`` counts the rows of its forward pass; 0 when the batch was split after a failure.
    ``out_of_memory_rows`` is the smallest forward pass that ran out of memory; None when none did. ``latents`` are the
    rows that go on in the lane of the decoder.
    """

    continuing: Slots
    leaving: Slots
    finished: list[FinishedRow]
    forward_rows: int = 0
    previews: list[PreviewedRow] = field(default_factory=list)
    out_of_memory_rows: int | None = None
    latents: list[LiveRow] = field(default_factory=list)


class Credit:
    """Priced milliseconds that a lane's branches have computed: work of the same requests, for the same drain rate."""

    def __init__(self) -> None:
        self._ms = 0.0

    def add(self, worked_ms: float) -> None:
        """Count work of a branch."""
        self._ms += worked_ms

    def take(self) -> float:
        """What was added since the last call."""
        taken, self._ms = self._ms, 0.0
        return taken


class LaneSnapshot(NamedTuple):
    """The rows of a lane: ``queued`` by request; ``running``, each with the forward-pass rows that it still needs."""

    queued: Sequence[Waiting[LiveRow]]
    running: Sequence[tuple[LiveRow, int]]


class Lane:
    """Serves one model's rows. All methods except ``compute`` run under the device's lock.

    Rows of a model that decodes apart go on in the lane ``decoder``. ``sizes`` has the lanes of pictures of other
    sizes. Both are branches: rows of the same requests, which have one gate and one drain rate.
    """

    def __init__(
        self,
        model: Model,
        cost: CostModel,
        drain: DrainRate,
        settings: Settings,
        metrics: ModelMetrics,
        decoder: "Lane | None" = None,
    ) -> None:
        self.model, self.cost, self.metrics = model, cost, metrics
        self.drain, self.decoder = drain, decoder
        #: What the branches of this lane have worked, and where this one's work counts, if it is a branch.
        self.credit = Credit()
        self._counts_for: Credit | None = None
        if decoder is not None:
            decoder.count_for(self)
        self.sizes: dict[Size, Lane] = {}
        # When the drain rate was last updated, and whether the last claim left rows waiting.
        self._drain_updated_at, self._rows_wait = time.monotonic(), False
        #: Device milliseconds of service, by which the device chooses the next lane.
        self.served_ms = 0.0
        self._queue: RowQueue[LiveRow] = RowQueue()
        # Whether all clients with waiting rows have all the slots that they get until others are free.
        self._clients_full = False
        self._sweep_due = False
        self._rejected: list[FinishedRow] = []
        slots = most_rows(model, settings.table_rows)
        self._table = RowTable(model, slots)
        metrics.table_rows.set(slots)
        metrics.cost_ratio.set(cost.ratio)

    def count_for(self, lane: "Lane") -> None:
        """Be a branch of ``lane``."""
        self._counts_for = lane.credit

    @property
    def family(self) -> "list[Lane]":
        """This lane and its branches."""
        own = [self] if self.decoder is None else [self, self.decoder]
        return own + [each for sized in self.sizes.values() for each in sized.family]

    @property
    def has_work(self) -> bool:
        """Whether a thread could claim rows now."""
        may_admit = len(self._queue) > 0 and self.free_slots > 0 and not self._clients_full
        return self._table.ready > 0 or may_admit

    @property
    def is_empty(self) -> bool:
        """Whether no row is queued or in the table."""
        return len(self._queue) == 0 and self._table.live == 0

    @property
    def queued(self) -> int:
        """Rows that wait for a slot."""
        return len(self._queue)

    @property
    def waiting(self) -> int:
        """Requests with waiting rows; may be outdated when read without the lock."""
        return self._queue.requests

    @property
    def live(self) -> int:
        """Rows in the table."""
        return self._table.live

    @property
    def free_slots(self) -> int:
        """How many queued rows may join the table now."""
        return self._table.free

    def rows(self, slots: Slots) -> list[LiveRow]:
        """The rows in these slots of the table."""
        return self._table.rows(slots)

    def put(self, rows: Sequence[LiveRow]) -> None:
        """Queue the rows of one job. Rows that only need decoding may be of several."""
        if self.is_empty:
            self.credit.take()
            self.drain.rest(self._since_drain_update())
        self._queue.put(rows, rows[0].job.client)
        self._clients_full = False

    def snapshot(self) -> LaneSnapshot:
        """A copy of all rows, to be read without the lock."""
        return LaneSnapshot(self._queue.waiting(), self._table.running_rows())

    def sweep(self) -> None:
        """Drop the rows of cancelled jobs before the next tick."""
        self._sweep_due = True

    def claim(self, budget_ms: float | None, threads: int) -> Slots:
        """Fill the table from the queue and claim the next tick's rows; none when all of them were cancelled.

        ``budget_ms`` bounds the tick while other lanes wait; None means the best bucket. ``threads`` free threads,
        including the caller's, share the ready rows evenly.
        """
        now = time.monotonic()
        self._sweep()
        self._admit(now)
        bucket = self.cost.best_bucket if budget_ms is None else self.cost.bucket_within(budget_ms)
        share = math.ceil(self._table.ready_forward_rows / threads)
        self._rows_wait = share > bucket or len(self._queue) > 0
        slots = self._table.claim(min(bucket, share))
        for row in self._table.rows(slots[self._table.first_step(slots)]):
            row.job.start(now)
        return slots

    def compute(self, slots: Slots) -> TickResult:
        """Compute one step of the claimed rows and wait for the device: the lane is charged the whole time."""
        index, batch = self._table.gather(slots)
        self.metrics.tick_rows.observe(batch.forward_rows)
        if padding := self.model.padding(batch.forward_rows):
            self.metrics.padding_rows.inc(padding)
        if batch.step is not None:
            self.metrics.steps.inc(len(batch))
        finished: list[FinishedRow] = []
        previews: list[PreviewedRow] = []
        latents: list[LiveRow] = []
        leaving = batch.ending.copy()
        out_of_memory: list[int] = []
        results = run_isolating(self.model, batch, partial(self._failed, out_of_memory))
        for rows, result in results:
            part = slots[rows]
            if isinstance(result, StepResult):
                if batch.step is not None:
                    self._table.store(index[rows], result.x, result.x_start)
                ended = self._results(part[batch.ending[rows]], result)
                if self.decoder is not None:
                    ended, undecoded = _undecoded(ended)
                    latents += undecoded
                finished += ended
                if result.previews:
                    previews += self._previews(part, result)
            else:
                leaving[rows] = True
                self.metrics.failed_rows["raised"].inc(len(part))
                reason = f"The model could not compute this picture: {type(result).__name__}."
                finished += [(row, ComputeFailed(reason)) for row in self._table.rows(part)]
        wait_for(self.model.device)
        in_one_pass = len(results) == 1 and isinstance(results[0][1], StepResult)
        forward_rows = batch.forward_rows if in_one_pass else 0
        least = min(out_of_memory, default=None)
        return TickResult(slots[~leaving], slots[leaving], finished, forward_rows, previews, least, latents)

    def fail_tick(self, slots: Slots) -> TickResult:
        """The result of a tick that the engine failed to compute."""
        self.metrics.failed_rows["engine"].inc(len(slots))
        failure = engine_fault()
        return TickResult(slots[:0], slots, [(row, failure) for row in self._table.rows(slots)])

    def take_rejected(self) -> list[FinishedRow]:
        """Return and clear the rows that could not join the table."""
        rejected, self._rejected = self._rejected, []
        return rejected

    def complete_tick(self, result: TickResult, spent_ms: float) -> None:
        """Make continuing rows ready again, free the other slots, and learn from the tick's duration."""
        self.served_ms += spent_ms
        self.metrics.device_seconds.inc(spent_ms / 1000)
        if result.out_of_memory_rows is not None:
            self.cost.shrink(result.out_of_memory_rows)
        if result.forward_rows:
            self.cost.learn(result.forward_rows, spent_ms)
            self.metrics.cost_ratio.set(self.cost.ratio)
        worked_ms = result.forward_rows * self.cost.row_ms() + self.credit.take()
        if self._counts_for is not None:
            self._counts_for.add(worked_ms)
        self._update_drain(worked_ms)
        self._table.release(result.continuing)
        self._table.drop(result.leaving)
        self._clients_full = False

    def _update_drain(self, worked_ms: float) -> None:
        if self._rows_wait:
            self.drain.note(worked_ms, self._since_drain_update())
        else:
            self.drain.rest(self._since_drain_update())

    def _since_drain_update(self) -> float:
        updated_at, self._drain_updated_at = self._drain_updated_at, time.monotonic()
        return self._drain_updated_at - updated_at

    def _sweep(self) -> None:
        """Drop the rows of cancelled jobs."""
        if not self._sweep_due:
            return
        queued, live = len(self._queue), self._table.live
        self._queue.discard(lambda row: row.job.cancelled)
        self._sweep_due = self._table.drop_cancelled()
        self.metrics.dropped_queued.inc(queued - len(self._queue))
        self.metrics.dropped_running.inc(live - self._table.live)

    def _admit(self, now: float) -> None:
        """Move rows from the queue to the table. Late rows are dropped; the API reports them to the client."""
        taken = list(self._queue.take(self.free_slots, self._held()))
        self._clients_full = not taken
        timely = [row for row in taken if not row.job.dropped(now)]
        if late := len(taken) - len(timely):
            self.metrics.dropped_queued.inc(late)
        try:
            self._table.admit(timely)
        except Exception:  # a fault of the engine: fail only the rows that cause it
            for row in timely:
                self._admit_alone(row)

    def _held(self) -> Counter[int] | None:
        """The slots of each client, to limit them; None if that is not needed.

        Rows of one step leave the table with every tick, so others find places without a limit.
        """
        wanted = len(self._queue) + self._table.live
        roomy = self.model.denoise is None or wanted <= TIMES_FREE * (self.free_slots - len(self._queue))
        return None if roomy else self._table.clients()

    def _admit_alone(self, row: LiveRow) -> None:
        try:
            self._table.admit([row])
        except Exception:
            log.exception("row not admitted", extra={"model": self.model.name})
            self.metrics.failed_rows["engine"].inc()
            self._rejected.append((row, engine_fault()))

    def _failed(self, out_of_memory: list[int], batch: Batch, failure: Exception) -> None:
        """Count a forward pass that raised; if it ran out of memory, append its rows to ``out_of_memory``."""
        if len(batch) > 1:
            self.metrics.split_calls.inc()
        if isinstance(failure, torch.OutOfMemoryError):
            self.metrics.out_of_memory.inc()
            out_of_memory.append(batch.forward_rows)

    def _results(self, slots: Slots, step: StepResult) -> list[FinishedRow]:
        rows = zip(self._table.rows(slots), step.results, step.usable.tolist(), strict=True)
        not_finite = "The model gave numbers that are not finite for this picture."
        if failed := len(slots) - int(step.usable.sum()):
            self.metrics.failed_rows["not-finite"].inc(failed)
        return [(row, result.copy() if usable else ComputeFailed(not_finite)) for row, result, usable in rows]

    def _previews(self, slots: Slots, step: StepResult) -> list[PreviewedRow]:
        slots = slots[[preview.row for preview in step.previews]]
        times = self._table.coefficients(slots)[:, 0].tolist()
        rows = zip(self._table.rows(slots), *self._table.position(slots), times, step.previews, strict=True)
        return [
            (row, Preview(row.index, done, steps, t, _own(preview.x_start), _own(preview.x_t)))
            for row, done, steps, t, preview in rows
        ]


def _undecoded(ended: list[FinishedRow]) -> tuple[list[FinishedRow], list[LiveRow]]:
    """The rows that are done, and those whose latent is still to be decoded."""
    done: list[FinishedRow] = []
    latents: list[LiveRow] = []
    for row, outcome in ended:
        if isinstance(outcome, ComputeFailed) or row.spec.as_latent:
            done.append((row, outcome))
        else:
            spec = RowSpec(row.spec.seed, row.spec.label, 1.0, EMPTY_PLAN, torch.from_numpy(outcome))
            latents.append(LiveRow(row.job, row.index, spec, row.deaths))
    return done, latents


def _own(picture: Picture | None) -> Picture | None:
    """A copy: a view would keep all of the tick's pictures in memory."""
    return None if picture is None else picture.copy()
