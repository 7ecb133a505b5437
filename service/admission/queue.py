"""Rows that wait for a place in the table, taken from the requests in turn."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Row = TypeVar("Row")


class RowQueue(Generic[Row]):
    """Requests in order of arrival, served round-robin, so that 64 rows of one do not delay 1 row of another."""

    def __init__(self) -> None:
        self._requests: deque[deque[Row]] = deque()
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def put(self, rows: Iterable[Row]) -> None:
        """Add the rows of one request."""
        request = deque(rows)
        if request:
            self._requests.append(request)
            self._rows += len(request)

    @property
    def requests(self) -> int:
        """Number of requests with waiting rows."""
        return len(self._requests)

    def waiting(self) -> list[tuple[Row, ...]]:
        """The waiting rows of each request, in the order of serving: entry i has i rows before its first one."""
        return [tuple(request) for request in self._requests]

    def discard(self, unwanted: Callable[[Row], bool]) -> None:
        """Remove every row for which ``unwanted`` is true."""
        kept = (deque(row for row in request if not unwanted(row)) for request in self._requests)
        self._requests = deque(request for request in kept if request)
        self._rows = sum(map(len, self._requests))

    def take(self, most: int) -> Iterator[Row]:
        """Up to ``most`` rows, each removed from the queue when it is yielded."""
        for _ in range(min(most, self._rows)):
            request = self._requests.popleft()
            self._rows -= 1
            row = request.popleft()
            if request:
                self._requests.append(request)
            yield row
