"""The threads of a device. They serve lanes in turn by device time, and report once per tick.

Fairness is start-time fair queueing (Goyal et al. 1996) over measured milliseconds: the lane with the least service
goes next. A lane that becomes busy starts at the current virtual time: idleness earns no credit.

A device refers to a lane only while it has rows, so the memory of a replaced model is freed with its last row.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from service.engine.delivery import FinishedRow, PreviewedRow
from service.engine.lane import Lane, LaneSnapshot, TickResult
from service.engine.rows import Size
from service.engine.submission import Job
from service.engine.table import LiveRow, Slots
from service.engine.transfer import wait_for
from service.process import cores, pin_to_core, usable_cores, use_batch_scheduling
from service.settings import Settings

log = logging.getLogger(__name__)

#: Keep capping ticks this many seconds after another model ran: a closed-loop client has nothing queued at that moment.
SHARED_S = 0.5
#: Seconds that ``stop`` waits for running ticks.
STOP_S = 10.0
#: Longest time that a waiting thread gives no sign of life, in seconds.
IDLE_S = 1.0

#: Lanes of pictures of other sizes that a model keeps while they are idle.
MOST_SIZES = 4

Result = TypeVar("Result")
Deliver = Callable[[Sequence[FinishedRow], Sequence[PreviewedRow], float], None]
#: Calls ``deliver``, the first argument, with the others: on an event loop, or at once on the engine thread.
Schedule = Callable[..., object]
Turn = Callable[[], None]


class Pulse(Protocol):
    """Records what each thread does, so that a supervisor can detect a thread that hangs."""

    def begin(self, thread: int, rows: Sequence[int]) -> None:
        """Thread ``thread`` begins a piece of work that holds these rows; [] for exclusive work."""

    def end(self, thread: int) -> None:
        """The thread has ended its work."""

    def idle(self, thread: int) -> None:
        """The thread waits for work; called at least every ``IDLE_S`` seconds."""


class Device:
    """``threads`` threads that serve the device's lanes; ``deliver`` gets a tick's results as ``start`` says."""

    def __init__(self, threads: int, tick_budget_ms: float, deliver: Deliver, pulse: Pulse | None = None) -> None:
        self._pulse = pulse
        self._tick_budget_ms = tick_budget_ms
        self._deliver = deliver
        self._lock = threading.Condition()
        self._busy: list[Lane] = []
        self._exclusive: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        # Exclusive work that runs; its future is cancelled if the device stops first, so that nobody waits for ever.
        self._working: set[Future[Any]] = set()
        #: The paper's virtual time: the start tag of the last tick, or its finish tag once all lanes are idle.
        self._virtual_ms = 0.0
        self._last_model: str | None = None
        self._shared_until = 0.0
        self._free_threads = threads
        self._stopping = False
        self._lost_threads = 0
        # Without pinning, the kernel may run two threads on one core while another is idle. Placement is left to it
        # where threads and cores differ in number.
        own = cores() if 1 < threads == len(cores()) else [None] * threads
        self._threads = [
            threading.Thread(target=self._serve, args=(number, core), name=f"engine-{number}", daemon=True)
            for number, core in enumerate(own)
        ]
        self._schedule: Schedule | None = None

    def start(self, schedule: Schedule) -> None:
        """Start the threads; they call ``schedule(deliver, ...)`` with the results of a tick."""
        self._schedule = schedule
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float = STOP_S) -> bool:
        """End the threads after their running ticks. Rows stay in their lanes; exclusive work is cancelled.

        Returns whether all threads ended within ``within_s`` seconds. A thread that a model blocks longer is abandoned:
        it is a daemon, and its results are dropped.
        """
        with self._lock:
            self._stop_serving()
        give_up = time.monotonic() + within_s
        for thread in self._threads:
            if thread.ident is not None:  # started
                thread.join(max(0.0, give_up - time.monotonic()))
        with self._lock:
            for future in self._working:
                future.cancel()
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        if stuck:
            log.error("engine threads did not end", extra={"threads": stuck, "waited_s": within_s})
        return not stuck

    def put(self, lane: Lane, rows: Sequence[LiveRow]) -> None:
        """Queue the rows of one job and wake at most one thread per row: more would only contend for the lock."""
        with self._lock:
            self._put(lane, rows)
            self._lock.notify(len(rows))

    def run_exclusive(self, work: Callable[[], Result]) -> Future[Result]:
        """Run ``work`` on an engine thread between two ticks, so that it shares neither GPU nor core with a tick.

        The future is cancelled if the device stops first.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._stopping:
                future.cancel()
            else:
                self._exclusive.append((work, future))
                self._lock.notify()
        return future

    def sweep(self, lane: Lane) -> None:
        """Drop the rows of cancelled jobs of ``lane`` and its branches before their next step."""
        with self._lock:
            for each in lane.family:
                each.sweep()
            self._lock.notify()

    def snapshot(self, lane: Lane) -> LaneSnapshot:
        """The rows of ``lane`` and its branches."""
        with self._lock:
            parts = [each.snapshot() for each in lane.family]
        queued, running = ([row for part in parts for row in part[place]] for place in (0, 1))
        return LaneSnapshot(queued, running)  # type: ignore[arg-type]

    def branch(self, lane: Lane, size: Size, new: Callable[[], Lane]) -> Lane:
        """The branch of ``lane`` for pictures of ``size``, made by ``new`` if there is none yet."""
        with self._lock:
            if size not in lane.sizes:
                idle = [known for known, each in lane.sizes.items() if all(part.is_empty for part in each.family)]
                for known in idle[: max(0, len(lane.sizes) + 1 - MOST_SIZES)]:
                    del lane.sizes[known]
                lane.sizes[size] = new()
            return lane.sizes[size]

    def is_idle(self) -> bool:
        """Whether no lane has rows."""
        with self._lock:
            return not self._busy

    def is_alive(self) -> bool:
        """Whether all threads run; a fault of the engine ends a thread."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def threads_left(self) -> int:
        """Number of threads that have not failed."""
        return len(self._threads) - self._lost_threads

    def busy_lanes(self) -> list[Lane]:
        """The lanes that have rows."""
        with self._lock:
            return list(self._busy)

    def _put(self, lane: Lane, rows: Sequence[LiveRow]) -> None:
        if lane.is_empty:
            self._busy.append(lane)
        had_work = lane.has_work
        lane.put(rows)
        self._start_at_virtual_time(lane, had_work)

    def _go_on(self, decoder: Lane, rows: Sequence[LiveRow]) -> None:
        """Queue rows of any jobs in the lane that decodes them."""
        by_job: dict[Job, list[LiveRow]] = {}
        for row in rows:
            by_job.setdefault(row.job, []).append(row)
        for own in by_job.values():
            self._put(decoder, own)
        self._lock.notify(len(rows))

    def _start_at_virtual_time(self, lane: Lane, had_work: bool) -> None:
        """Start a lane that had nothing to claim at the virtual time: idleness earns no credit.

        A lane whose rows are all in ticks counts as idle: with one row it cannot use a second thread.
        """
        if not had_work:
            lane.served_ms = max(lane.served_ms, self._virtual_ms)

    def _serve(self, thread: int, core: int | None) -> None:
        try:
            # Two torch threads on one core collapse as soon as something else wants that core: one thread each.
            torch.set_num_threads(1)
            use_batch_scheduling()
            if core is not None:
                pin_to_core(core)
            while self._serve_turn(thread):
                pass
        except BaseException:
            # The state of its lane is unknown now: liveness and readiness fail until a restart.
            log.critical("engine thread ended by a fault", exc_info=True)
            self._lose_thread()

    def _lose_thread(self) -> None:
        with self._lock:
            self._lost_threads += 1
            if not self.threads_left:
                self._stop_serving()  # no thread is left for exclusive work
            else:
                self._lock.notify_all()  # another thread must take the work that this one was woken for

    def _stop_serving(self) -> None:
        self._stopping = True
        while self._exclusive:
            self._exclusive.popleft()[1].cancel()
        self._lock.notify_all()

    def _serve_turn(self, thread: int) -> bool:
        """Wait for one piece of work and do it; False when the device stops.

        A separate function, so that a waiting thread keeps no reference to a lane.
        """
        turn = self._next_turn(thread)
        if turn is not None:
            turn()
            if self._pulse is not None:
                self._pulse.end(thread)
        return turn is not None

    def _next_turn(self, thread: int) -> Turn | None:
        with self._lock:
            while not self._stopping:
                turn = self._exclusive_turn(thread) or self._tick_turn(thread)
                if turn is not None:
                    self._free_threads -= 1
                    return turn
                if not any(lane.has_work for lane in self._busy):
                    self._wait(thread)
            return None

    def _wait(self, thread: int) -> None:
        if self._pulse is None:
            self._lock.wait()
            return
        self._pulse.idle(thread)
        self._lock.wait(IDLE_S)

    def _exclusive_turn(self, thread: int) -> Turn | None:
        if not self._exclusive:
            return None
        if self._pulse is not None:
            self._pulse.begin(thread, [])
        work, future = self._exclusive.popleft()
        self._working.add(future)
        return partial(self._work, work, future)

    def _tick_turn(self, thread: int) -> Turn | None:
        """The next tick; None when no lane has work, or the claimed rows had all been cancelled."""
        waiting = [lane for lane in self._busy if lane.has_work]
        if not waiting:
            return None
        lane = min(waiting, key=lambda lane: lane.served_ms)
        self._virtual_ms = lane.served_ms
        # Parts of a model serve the same requests, so that none of them gains from short ticks of the others.
        model = lane.model.manifest.name
        self._note_model(model)
        shared = time.monotonic() < self._shared_until or any(each.model.manifest.name != model for each in waiting)
        slots = lane.claim(self._tick_budget_ms if shared else None, self._free_threads)
        rejected = lane.take_rejected()
        if rejected:
            self._report(TickResult(slots[:0], slots[:0], rejected))
        self._forget_if_empty(lane)
        if len(slots) == 0:
            return None
        if self._pulse is not None:
            self._pulse.begin(thread, [row.key for row in lane.rows(slots)])
        return partial(self._tick, lane, slots)

    def _note_model(self, model: str) -> None:
        """Treat the device as shared for ``SHARED_S`` after a change of models."""
        if self._last_model not in (None, model):
            self._shared_until = time.monotonic() + SHARED_S
        self._last_model = model

    def _work(self, work: Callable[[], Any], future: Future[Any]) -> None:
        try:
            outcome: tuple[Any, BaseException | None] = work(), None
        except BaseException as failure:  # the caller waits for the future
            outcome = None, failure
        with self._lock:
            self._free_threads += 1
            self._working.discard(future)
            if future.cancelled():  # the device has stopped
                return
        result, raised = outcome
        if raised is None:
            future.set_result(result)
        else:
            future.set_exception(raised)

    def _tick(self, lane: Lane, slots: Slots) -> None:
        started, failed = time.perf_counter(), False
        try:
            result = lane.compute(slots)
        except Exception:  # a fault of the engine, not of a row: fail the rows and keep the thread
            log.exception("tick failed", extra={"model": lane.model.name, "rows": len(slots)})
            result, failed = lane.fail_tick(slots), True
        self._finish_tick(lane, result, spent_ms=1000 * (time.perf_counter() - started))
        if failed:
            # Raises where a GPU computes nothing any more, as after an illegal access: then the thread ends.
            wait_for(lane.model.device)

    def _finish_tick(self, lane: Lane, result: TickResult, spent_ms: float) -> None:
        if result.previews:  # first, to keep previews in order: another thread may serve the rows again
            self._report(result)
        with self._lock:
            self._free_threads += 1
            had_work = lane.has_work
            lane.complete_tick(result, spent_ms)
            self._start_at_virtual_time(lane, had_work)
            self._forget_if_empty(lane)
            if lane.decoder is not None and result.latents:
                self._go_on(lane.decoder, result.latents)
            self._lock.notify()  # a thread that found no rows may claim the ones just released
        if result.finished and not result.previews:
            self._report(result)

    def _report(self, result: TickResult) -> None:
        assert self._schedule is not None
        self._schedule(self._deliver, result.finished, result.previews, time.monotonic())

    def _forget_if_empty(self, lane: Lane) -> None:
        if lane.is_empty:
            self._busy.remove(lane)
            if not self._busy:
                self._virtual_ms = max(self._virtual_ms, lane.served_ms)


def thread_count(device: torch.device, settings: Settings) -> int:
    """How many threads use the device: one on a GPU; on a CPU the setting, or one per usable core."""
    return settings.engine_threads or usable_cores() if device.type == "cpu" else 1
