"""Repeated work on the event loop, beside the requests. Failures are logged, counted and reported."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

log = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None] | None]


class Background:
    """Steps that are repeated until ``stop``, also after a failure.

    ``failed`` is called with the name of every step that raises. ``failing`` maps the names of the
    steps whose last run failed to the reasons.
    """

    def __init__(self, failed: Callable[[str], object]) -> None:
        self.failing: dict[str, str] = {}
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def repeat(self, name: str, step: Step, every_s: float) -> None:
        """Run ``step`` now, and again ``every_s`` seconds after each end."""
        self._tasks.append(asyncio.create_task(self._repeat(name, step, every_s), name=name))

    def stop(self) -> None:
        """Stop repeating; a waiting step is cancelled."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    async def _repeat(self, name: str, step: Step, every_s: float) -> None:
        while True:
            try:
                running = step()
                if running is not None:
                    await running
            except Exception as failure:
                self._note(name, failure)
            else:
                self.failing.pop(name, None)
            await asyncio.sleep(every_s)

    def _note(self, name: str, failure: Exception) -> None:
        reason = f"{type(failure).__name__}: {failure}"
        if self.failing.get(name) != reason:  # log a repeated failure once
            log.error("background step failed", extra={"step": name, "reason": reason}, exc_info=failure)
        self.failing[name] = reason
        self._failed(name)


def log_failure(done: "asyncio.Future[Any] | Future[Any]") -> None:
    """Log the exception of a task that nobody awaits; pass it to ``add_done_callback``."""
    if not done.cancelled() and (failure := done.exception()) is not None:
        log.error("background task failed", extra={"reason": str(failure)}, exc_info=failure)


def call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Call on ``loop`` from any thread, unless it is closed because the service has stopped."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *arguments)
