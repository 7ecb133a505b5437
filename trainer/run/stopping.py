"""Graceful stop on SIGINT and SIGTERM: the current step ends and is saved; work without effects is abandoned."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal stopped the run after it saved its checkpoint; ``command`` resumes it."""

    def __init__(self, signum: int, command: str = "--resume") -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; resume with {command}")
        self.signum = signum


@dataclass
class StopRequests:
    """The signals received so far, and whether the next one interrupts at once."""

    received: list[int] = field(default_factory=list)
    _at_once: bool = False

    def __bool__(self) -> bool:
        return bool(self.received)

    @property
    def signum(self) -> int:
        """The first signal; SIGTERM when only another process received one."""
        return self.received[0] if self.received else signal.SIGTERM

    def record(self, signum: int, _frame: FrameType | None) -> None:
        """Signal handler. Raises Interrupted inside ``interruptible``."""
        self.received.append(signum)
        if self._at_once:
            raise Interrupted(signum)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside, a signal leaves the block at once: for work that has no effect before its last statement."""
        with suppress(Interrupted):
            try:
                self._at_once = True
                yield
            finally:
                self._at_once = False


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Inside, SIGINT and SIGTERM are recorded; the loop ends its step, saves and stops."""
    requests = StopRequests()
    before = {signum: signal.signal(signum, requests.record) for signum in SIGNALS}
    try:
        yield requests
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
