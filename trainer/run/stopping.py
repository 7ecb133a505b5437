"""SIGINT and SIGTERM as requests: what is under way ends and is saved, or is given up where nothing would be lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop and has saved its checkpoint; ``signum`` is the signal, ``command`` how to go on."""

    def __init__(self, signum: int, command: str = "--resume") -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; go on with {command}")
        self.signum = signum


@dataclass
class StopRequests:
    """The signals that came, and whether the next is to end what is under way."""

    received: list[int] = field(default_factory=list)
    _at_once: bool = False

    def __bool__(self) -> bool:
        return bool(self.received)

    @property
    def signum(self) -> int:
        """The first signal that came; where another process got it, SIGTERM."""
        return self.received[0] if self.received else signal.SIGTERM

    def note(self, signum: int, _frame: FrameType | None) -> None:
        """The handler of the signals. Raises Interrupted inside ``abandoning``."""
        self.received.append(signum)
        if self._at_once:
            raise Interrupted(signum)

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Inside, a signal gives up the block at once: for work that changes nothing before its last statement."""
        with suppress(Interrupted):
            try:
                self._at_once = True
                yield
            finally:
                self._at_once = False


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Inside, SIGINT and SIGTERM are requests: the step under way ends and is saved."""
    requests = StopRequests()
    before = {signum: signal.signal(signum, requests.note) for signum in SIGNALS}
    try:
        yield requests
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
