"""A job: the results of submitted rows, their deadline, and the future that the caller awaits."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

Result = TypeVar("Result")


class Job(Protocol):
    """What an engine knows of the job of its rows: a ``Submission`` of this process, or of another one.

    Engine threads call ``start`` and ``dropped``; the others are called where results are delivered. ``key`` is unique
    among the jobs of an engine process, with 16 zero bits for the number of a row. ``client`` stands for who sent it:
    clients are served in turn.
    """

    @property
    def key(self) -> int: ...  # noqa: D102

    @property
    def client(self) -> int: ...  # noqa: D102

    @property
    def cancelled(self) -> bool: ...  # noqa: D102

    def dropped(self, now: float) -> bool: ...  # noqa: D102

    def start(self, now: float) -> None: ...  # noqa: D102

    def deliver(self, row: int, result: Any, now: float) -> None: ...  # noqa: ANN401, D102

    def preview(self, preview: Any) -> None: ...  # noqa: ANN401, D102

    def fail(self, failure: Exception) -> None: ...  # noqa: D102


class Submission(Generic[Result]):
    """``rows`` results, collected in any order on the event loop and returned together by ``future``.

    Times are seconds of the monotonic clock; the deadline is ``expires_at``. ``on_end`` is called once, when the job
    has all results, fails or is cancelled. The caller may set ``on_preview``, called with every preview (a row's
    previews come in order and before its result), and ``on_result``, called with every row's index and result.
    Engine threads call only ``start`` and ``dropped``; everything else runs on the event loop.
    """

    #: Not needed in the engine of the same process: nobody must find its rows after that has died.
    key = 0
    #: Stands for who sent it; 0 is nobody in particular.
    client = 0
    on_preview: Callable[[Any], None] | None = None
    on_result: Callable[[int, Result], None] | None = None

    def __init__(
        self,
        rows: int,
        expires_at: float = math.inf,
        on_end: "Callable[[Submission[Result]], None] | None" = None,
        client: int = 0,
    ) -> None:
        self.client = client
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.expires_at = expires_at
        self._on_end = on_end
        self._results: list[Result | None] = [None] * rows
        self._missing = rows
        self.future: asyncio.Future[Sequence[Result]] = asyncio.get_running_loop().create_future()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self._results)

    @property
    def done(self) -> bool:
        """Whether the job has ended: with results, with an error, or cancelled."""
        return self.future.done()

    @property
    def cancelled(self) -> bool:
        """Whether the job ended before all results were there."""
        return self._missing > 0 and self.done

    def dropped(self, now: float) -> bool:
        """Whether missing rows need not be computed: the job is cancelled or its deadline has passed."""
        return self.cancelled or now >= self.expires_at

    def start(self, now: float) -> None:
        """Record the time of the first tick that computes a row."""
        if self.started_at is None:
            self.started_at = now

    def deliver(self, row: int, result: Result, now: float) -> None:
        """Store one row's result; the last one ends the job. A job that has ended ignores it."""
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
        """Pass a row's preview on, unless the job has ended."""
        if self.on_preview is not None and not self.done:
            self.on_preview(preview)

    def fail(self, failure: Exception) -> None:
        """End the job with an error; its other rows are dropped before their next tick."""
        if not self.done:
            self.future.set_exception(failure)
        self._end()

    def cancel(self) -> None:
        """Cancel the job; missing rows are not computed. A job that has ended stays as it is."""
        self.future.cancel()
        self._end()

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
