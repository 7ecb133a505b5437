"""One accepted request: its rows' results, its clock, and the one future its sender waits on."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Submission(Generic[Result]):
    """``rows`` results, collected in any order on the event loop and handed over together.

    Times are seconds of the monotonic clock that the caller reads. From ``expires_at`` on the results are of no use.
    ``on_end`` is called once, when the job has all results, has failed or was cancelled. ``on_preview``, which whoever
    waits may set, is called with every preview of a row: those of one row in the order of its steps and before its
    result. ``on_result`` is so too, with a row's place and its result, before the last one ends the job.
    Engine threads call ``start`` and ``dropped``; all the rest is the event loop's.
    """

    on_preview: Callable[[Any], None] | None = None
    on_result: Callable[[int, Result], None] | None = None

    def __init__(
        self,
        rows: int,
        expires_at: float = math.inf,
        on_end: "Callable[[Submission[Result]], None] | None" = None,
    ) -> None:
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self._expires_at = expires_at
        self._on_end = on_end
        self._results: list[Result | None] = [None] * rows
        self._missing = rows
        self.future: asyncio.Future[Sequence[Result]] = asyncio.get_running_loop().create_future()

    @property
    def rows(self) -> int:
        """How many results it is to have."""
        return len(self._results)

    @property
    def done(self) -> bool:
        """Whether the sender has its answer, good or bad, or has gone."""
        return self.future.done()

    @property
    def cancelled(self) -> bool:
        """Whether it is over with rows missing, which nobody waits for any more."""
        return self._missing > 0 and self.done

    def dropped(self, now: float) -> bool:
        """Whether rows that are missing need not be computed: nobody waits, or they would come too late."""
        return self.cancelled or now >= self._expires_at

    def start(self, now: float) -> None:
        """Note the first tick that computes a row; later ticks change nothing."""
        if self.started_at is None:
            self.started_at = now

    def deliver(self, row: int, result: Result, now: float) -> None:
        """Take one row's result; the last one ends the job. A job that is over ignores it: nobody waits."""
        if self.done or self._results[row] is not None:
            return
        self._results[row] = result
        self._missing -= 1
        if self.on_result is not None:
            self.on_result(row, result)
        if self._missing == 0:
            self.finished_at = now
            self.future.set_result([result for result in self._results if result is not None])
            self._end()

    def preview(self, preview: object) -> None:
        """Show how a row looks on its way, to whoever asked; a job that is over shows nothing."""
        if self.on_preview is not None and not self.done:
            self.on_preview(preview)

    def fail(self, failure: Exception) -> None:
        """End the job with an error; its other rows are dropped at their next tick."""
        if not self.done:
            self.future.set_exception(failure)
        self._end()

    def cancel(self) -> None:
        """Nobody waits any more: rows not yet computed never are. A job that is over stays as it is."""
        self.future.cancel()
        self._end()

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
