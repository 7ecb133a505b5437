"""Rows that wait for a place in a table, served a row from each request in turn."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Row = TypeVar("Row")


class RowQueue(Generic[Row]):
    """Requests in order of arrival; taking goes round them, so that 64 rows of one do not hold up 1 row of another."""

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
        """How many requests have rows here."""
        return len(self._requests)

    def waiting(self) -> list[tuple[Row, ...]]:
        """The rows that wait, those of a request together; as many rows go before its first as requests do."""
        return [tuple(request) for request in self._requests]

    def discard(self, unwanted: Callable[[Row], bool]) -> None:
        """Remove every row that ``unwanted`` is true of."""
        kept = (deque(row for row in request if not unwanted(row)) for request in self._requests)
        self._requests = deque(request for request in kept if request)
        self._rows = sum(map(len, self._requests))

    def take(self, most: int) -> Iterator[Row]:
        """Up to ``most`` rows, removed from the queue as they are yielded."""
        for _ in range(min(most, self._rows)):
            request = self._requests.popleft()
            self._rows -= 1
            row = request.popleft()
            if request:
                self._requests.append(request)
            yield row
