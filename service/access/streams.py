"""How many event streams each client follows."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Streams:
    """At most ``most`` for each client in this process; used on the event loop only."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: Counter[str] = Counter()

    def full(self, client: str) -> bool:
        """Whether ``client`` follows the maximum."""
        return self._open[client] >= self.most

    @contextmanager
    def following(self, client: str) -> Iterator[None]:
        """Count a stream of ``client`` meanwhile."""
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
