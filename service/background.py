"""Work beside the requests, on the event loop. What fails is logged, counted and shown, and never ends in silence."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

log = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None] | None]


class Background:
    """Steps that are repeated until ``stop``. A step that raises is repeated as any other.

    ``failed`` is called with its name for every step that raises. ``failing`` says, by name, why the last step of those
    failed whose last step did.
    """

    def __init__(self, failed: Callable[[str], object]) -> None:
        self.failing: dict[str, str] = {}
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def repeat(self, name: str, step: Step, every_s: float) -> None:
        """Have ``step`` made now, and ``every_s`` seconds after each time that it ended."""
        self._tasks.append(asyncio.create_task(self._repeat(name, step, every_s), name=name))

    def stop(self) -> None:
        """Make no more steps; one under way is cancelled where it waits."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    async def _repeat(self, name: str, step: Step, every_s: float) -> None:
        while True:
            try:
                waits = step()
                if waits is not None:
                    await waits
            except Exception as failure:
                self._note(name, failure)
            else:
                self.failing.pop(name, None)
            await asyncio.sleep(every_s)

    def _note(self, name: str, failure: Exception) -> None:
        reason = f"{type(failure).__name__}: {failure}"
        if self.failing.get(name) != reason:  # once, not as often as it is repeated
            log.error("background step failed", extra={"step": name, "reason": reason}, exc_info=failure)
        self.failing[name] = reason
        self._failed(name)


def log_failure(done: "asyncio.Future[Any] | Future[Any]") -> None:
    """Log what a task raised that nobody waits for: its ``add_done_callback``."""
    if not done.cancelled() and (failure := done.exception()) is not None:
        log.error("background task failed", extra={"reason": str(failure)}, exc_info=failure)
