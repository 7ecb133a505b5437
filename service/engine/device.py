"""The threads that own a device. They take lanes in turn by device time served, and wake the event loop once a tick.

Fairness is start-time fair queueing (Goyal et al. 1996) over measured milliseconds: the lane that was served least
goes next, and a lane that was idle starts level with the others instead of being paid back for its idleness.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from service.admission.job import Job
from service.engine.lane import Ended, Filmed, Lane, Ticked
from service.engine.table import LiveRow, Slots

log = logging.getLogger(__name__)

Deliver = Callable[[Sequence[Ended], Sequence[Filmed], float], None]


class Device:
    """``threads`` threads over the lanes of a device; ``deliver`` is called on the event loop with a tick's results."""

    def __init__(self, lanes: Sequence[Lane], threads: int, tick_budget_ms: float, deliver: Deliver) -> None:
        self._lanes = lanes
        self._tick_budget_ms = tick_budget_ms
        self._deliver = deliver
        self._lock = threading.Condition()
        self._free_threads = threads
        self._stopping = False
        names = [f"engine-{number}" for number in range(threads)]
        self._threads = [threading.Thread(target=self._serve, name=name, daemon=True) for name in names]
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to serve; results go to ``loop``."""
        self._loop = loop
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads after the ticks under way; rows still in the lanes stay there."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    def put(self, lane: Lane, rows: Iterable[LiveRow]) -> None:
        """Queue the rows of one job and wake the threads."""
        with self._lock:
            if lane.is_empty:
                lane.served_ms = max(lane.served_ms, self._level_ms())
            lane.put(rows)
            self._lock.notify_all()

    def sweep(self, lane: Lane) -> None:
        """A job of ``lane`` was cancelled: its rows leave before their next step."""
        with self._lock:
            lane.sweep()
            self._lock.notify()

    def left(self, lane: Lane, job: Job[Any]) -> tuple[int, dict[int, int]]:
        """``Lane.left``, of a lane whose rows are being served."""
        with self._lock:
            return lane.left(job)

    def is_idle(self) -> bool:
        """Whether no lane has a row queued or under way."""
        with self._lock:
            return all(lane.is_empty for lane in self._lanes)

    def is_alive(self) -> bool:
        """Whether all of its threads run: a fault of ours could end one."""
        return all(thread.is_alive() for thread in self._threads)

    def _level_ms(self) -> float:
        """Where a lane that was idle starts: with the least served of the busy ones, else no lower than any was."""
        busy = [lane.served_ms for lane in self._lanes if not lane.is_empty]
        return min(busy) if busy else max(lane.served_ms for lane in self._lanes)

    def _serve(self) -> None:
        # Two torch threads on one core collapse as soon as something else wants that core: one thread each.
        torch.set_num_threads(1)
        while (claimed := self._claim()) is not None:
            lane, slots = claimed
            started = time.perf_counter()
            try:
                ticked = lane.compute(slots)
            except Exception:  # a fault of ours, not of a row: the thread must outlive it, and its rows must be told
                log.exception("tick failed", extra={"model": lane.model.name, "rows": len(slots)})
                ticked = lane.abandon(slots)
            self._settle(lane, ticked, spent_ms=1000 * (time.perf_counter() - started))

    def _claim(self) -> tuple[Lane, Slots] | None:
        """The next tick's lane and rows, waiting until there is work; None when the device stops."""
        with self._lock:
            while not self._stopping:
                waiting = [lane for lane in self._lanes if lane.has_work]
                if not waiting:
                    self._lock.wait()
                    continue
                lane = min(waiting, key=lambda lane: lane.served_ms)
                budget_ms = self._tick_budget_ms if len(waiting) > 1 else None
                slots = lane.claim(budget_ms, self._free_threads)
                if len(slots):
                    self._free_threads -= 1
                    return lane, slots
            return None

    def _settle(self, lane: Lane, ticked: Ticked, spent_ms: float) -> None:
        if ticked.filmed:  # before another thread can serve the same rows on: previews come in their order
            self._tell(ticked)
        with self._lock:
            self._free_threads += 1
            lane.settle(ticked, spent_ms)
            self._lock.notify()  # rows went back to the table: a thread that found none may take some of them
        if ticked.ended and not ticked.filmed:
            self._tell(ticked)

    def _tell(self, ticked: Ticked) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._deliver, ticked.ended, ticked.filmed, time.monotonic())
