"""The threads that own a device. They take lanes in turn by device time served, and wake the event loop once a tick.

Fairness is start-time fair queueing (Goyal et al. 1996) over measured milliseconds: the lane that was served least
goes next, and a lane that wanted nothing is raised to the level of the one that went last, instead of being paid back.

A device knows a lane only while it has rows: one that nobody else refers to any more goes with its last row, and its
model's memory with it.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import torch

from service.engine.delivery import FinishedRow, PreviewedRow
from service.engine.lane import Lane, LaneSnapshot, TickResult
from service.engine.table import LiveRow, Slots
from service.engine.transfer import wait_for
from service.process import cores, pin_to_core, usable_cores, use_batch_scheduling
from service.settings import Settings

log = logging.getLogger(__name__)

#: For how many seconds after another model's tick a model is not taken to be alone: whoever waits for short calls comes
#: back, and has nothing waiting just then.
SHARED_S = 0.5
#: For how many seconds a stop waits for the turns under way.
STOP_S = 10.0

Result = TypeVar("Result")
Deliver = Callable[[Sequence[FinishedRow], Sequence[PreviewedRow], float], None]
Turn = Callable[[], None]


class Device:
    """``threads`` threads over the lanes of a device; ``deliver`` is called on the event loop with a tick's results."""

    def __init__(self, threads: int, tick_budget_ms: float, deliver: Deliver) -> None:
        self._tick_budget_ms = tick_budget_ms
        self._deliver = deliver
        self._lock = threading.Condition()
        self._busy: list[Lane] = []
        self._exclusive: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        # Lent work under way: whoever waits for it must hear of a device that stops without it.
        self._working: set[Future[Any]] = set()
        #: The paper's virtual time: what the lane that went last had been served before; and after, once all are idle.
        self._level_ms = 0.0
        self._last_model: str | None = None
        self._shared_until = 0.0
        self._free_threads = threads
        self._stopping = False
        self._lost_threads = 0
        # Left alone, the kernel lets two of them take turns on one core while another core is idle. With fewer threads
        # than cores, or more, where they should run is not for this process to know.
        own = cores() if 1 < threads == len(cores()) else [None] * threads
        self._threads = [
            threading.Thread(target=self._serve, args=(core,), name=f"engine-{number}", daemon=True)
            for number, core in enumerate(own)
        ]
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to serve; results go to ``loop``."""
        self._loop = loop
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float = STOP_S) -> bool:
        """End the threads after the turns under way; rows still in the lanes stay there, work still lent is dropped.

        Returns whether all threads ended within ``within_s`` seconds. One that a model keeps longer is left behind: it
        is a daemon, and what it makes is dropped.
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
        """Queue the rows of one job, and wake no more threads than could take one: another would be in their way."""
        with self._lock:
            if lane.is_empty:
                self._busy.append(lane)
            had_work = lane.has_work
            lane.put(rows)
            self._bring_level(lane, had_work)
            self._lock.notify(len(rows))

    def run_exclusive(self, work: Callable[[], Result]) -> Future[Result]:
        """Have one of the threads do ``work`` between two ticks: nothing else may use a GPU, or a core.

        The future is cancelled when the device stops first.
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
        """A job of ``lane`` was cancelled: its rows leave before their next step."""
        with self._lock:
            lane.sweep()
            self._lock.notify()

    def snapshot(self, lane: Lane) -> LaneSnapshot:
        """``Lane.snapshot``, of a lane whose rows are being served."""
        with self._lock:
            return lane.snapshot()

    def is_idle(self) -> bool:
        """Whether no lane has a row queued or under way."""
        with self._lock:
            return not self._busy

    def is_alive(self) -> bool:
        """Whether all of its threads run: a fault of ours could end one."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def threads_left(self) -> int:
        """Threads that no fault has ended."""
        return len(self._threads) - self._lost_threads

    def busy_lanes(self) -> list[Lane]:
        """Those with a row queued or under way."""
        with self._lock:
            return list(self._busy)

    def _bring_level(self, lane: Lane, had_work: bool) -> None:
        """Bring a lane that had no work until now to the level: what it did not want is not owed to it.

        Nor is it while its rows are all under way: a lane with one row keeps one thread busy and wants no second.
        """
        if not had_work:
            lane.served_ms = max(lane.served_ms, self._level_ms)

    def _serve(self, core: int | None) -> None:
        try:
            # Two torch threads on one core collapse as soon as something else wants that core: one thread each.
            torch.set_num_threads(1)
            use_batch_scheduling()
            if core is not None:
                pin_to_core(core)
            while self._serve_turn():
                pass
        except BaseException:
            # The state that it left behind is unknown: liveness and readiness show it until a restart.
            log.critical("engine thread ended by a fault", exc_info=True)
            self._lose_thread()

    def _lose_thread(self) -> None:
        with self._lock:
            self._lost_threads += 1
            if not self.threads_left:
                self._stop_serving()  # nobody is left to do what was lent
            else:
                self._lock.notify_all()  # the turn that this thread was woken for is another's now

    def _stop_serving(self) -> None:
        self._stopping = True
        while self._exclusive:
            self._exclusive.popleft()[1].cancel()
        self._lock.notify_all()

    def _serve_turn(self) -> bool:
        """Take one turn, waiting until there is one; False when the device stops.

        A function of its own, so that a thread which waits holds on to no lane.
        """
        turn = self._next_turn()
        if turn is not None:
            turn()
        return turn is not None

    def _next_turn(self) -> Turn | None:
        with self._lock:
            while not self._stopping:
                turn = self._exclusive_turn() or self._tick_turn()
                if turn is not None:
                    self._free_threads -= 1
                    return turn
                if not any(lane.has_work for lane in self._busy):
                    self._lock.wait()
            return None

    def _exclusive_turn(self) -> Turn | None:
        if not self._exclusive:
            return None
        work, future = self._exclusive.popleft()
        self._working.add(future)
        return partial(self._work, work, future)

    def _tick_turn(self) -> Turn | None:
        """The next tick: its lane and rows; None when no lane has work, or its rows had all been given up."""
        waiting = [lane for lane in self._busy if lane.has_work]
        if not waiting:
            return None
        lane = min(waiting, key=lambda lane: lane.served_ms)
        self._level_ms = lane.served_ms
        self._note_next(lane.model.name)
        shared = len(waiting) > 1 or time.monotonic() < self._shared_until
        slots = lane.claim(self._tick_budget_ms if shared else None, self._free_threads)
        rejected = lane.take_rejected()
        if rejected:
            self._tell(TickResult(slots[:0], slots[:0], rejected))
        self._forget_if_empty(lane)
        return partial(self._tick, lane, slots) if len(slots) else None

    def _note_next(self, model: str) -> None:
        """``model`` goes next: where another went before, they share the device for a while."""
        if self._last_model not in (None, model):
            self._shared_until = time.monotonic() + SHARED_S
        self._last_model = model

    def _work(self, work: Callable[[], Any], future: Future[Any]) -> None:
        try:
            outcome: tuple[Any, BaseException | None] = work(), None
        except BaseException as failure:  # whoever waits for it would wait for ever
            outcome = None, failure
        with self._lock:
            self._free_threads += 1
            self._working.discard(future)
            if future.cancelled():  # the device stopped meanwhile
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
        except Exception:  # a fault of ours, not of a row: the thread must outlive it, and its rows must be told
            log.exception("tick failed", extra={"model": lane.model.name, "rows": len(slots)})
            result, failed = lane.fail_tick(slots), True
        self._finish_tick(lane, result, spent_ms=1000 * (time.perf_counter() - started))
        if failed:
            # Raises where a GPU computes nothing any more, as after an illegal access: then the thread ends.
            wait_for(lane.model.device)

    def _finish_tick(self, lane: Lane, result: TickResult, spent_ms: float) -> None:
        if result.previews:  # before another thread can serve the same rows on: previews come in their order
            self._tell(result)
        with self._lock:
            self._free_threads += 1
            had_work = lane.has_work
            lane.complete_tick(result, spent_ms)
            self._bring_level(lane, had_work)
            self._forget_if_empty(lane)
            self._lock.notify()  # rows went back to the table: a thread that found none may take some of them
        if result.finished and not result.previews:
            self._tell(result)

    def _tell(self, result: TickResult) -> None:
        assert self._loop is not None
        if self._loop.is_closed():  # a tick that outlasted the service: nobody is left to be told
            return
        self._loop.call_soon_threadsafe(self._deliver, result.finished, result.previews, time.monotonic())

    def _forget_if_empty(self, lane: Lane) -> None:
        if lane.is_empty:
            self._busy.remove(lane)
            if not self._busy:
                self._level_ms = max(self._level_ms, lane.served_ms)


def thread_count(device: torch.device, settings: Settings) -> int:
    """How many threads use the device: one on a GPU; on a CPU the setting, or one per usable core."""
    return settings.engine_threads or usable_cores() if device.type == "cpu" else 1
