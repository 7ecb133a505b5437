"""Rows that wait for a place in the table, taken from the clients in turn, and from each client's requests in turn."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

Row = TypeVar("Row")

#: A client gets a place while it has at most this many times those that are free (dynamic thresholds; Choudhury & Hahne
#: 1998, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches"). A client that filled the table would
#: empty it all at once, because its rows are served in turn: until then, nobody else would get a place.
TIMES_FREE = 7


def most_places(places: int) -> int:
    """How many of so many places a client gets that is alone; all of fewer than eight."""
    return TIMES_FREE * (places + 1) // (TIMES_FREE + 1)


class Waiting(NamedTuple, Generic[Row]):
    """The waiting rows of a request, and how many rows are taken before the first of them."""

    ahead: int
    rows: tuple[Row, ...]


class RowQueue(Generic[Row]):
    """Clients, and the requests of each, served round-robin.

    So 64 rows of one request do not delay 1 row of another, and 100 requests of one client not 1 request of another.
    """

    def __init__(self) -> None:
        self._clients: OrderedDict[int, deque[deque[Row]]] = OrderedDict()
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def put(self, rows: Iterable[Row], client: int = 0) -> None:
        """Add the rows of one request of ``client``."""
        request = deque(rows)
        if request:
            self._clients.setdefault(client, deque()).append(request)
            self._rows += len(request)

    @property
    def requests(self) -> int:
        """Number of requests with waiting rows."""
        return sum(map(len, self._clients.values()))

    def waiting(self) -> list[Waiting[Row]]:
        """The waiting rows of each request, in the order in which their first ones are taken."""
        requests: list[tuple[Row, ...]] = []
        turns: RowQueue[int] = RowQueue()
        for client, own in self._clients.items():
            for request in own:
                turns.put([len(requests)] * len(request), client)
                requests.append(tuple(request))
        first: dict[int, int] = {}
        for place, request_number in enumerate(turns.take(self._rows)):
            first.setdefault(request_number, place)
        return [Waiting(place, requests[number]) for number, place in first.items()]

    def discard(self, unwanted: Callable[[Row], bool]) -> None:
        """Remove every row for which ``unwanted`` is true."""
        clients, self._clients, self._rows = self._clients, OrderedDict(), 0
        for client, requests in clients.items():
            for request in requests:
                self.put((row for row in request if not unwanted(row)), client)

    def take(self, places: int, held: Counter[int] | None = None) -> Iterator[Row]:
        """Rows for up to so many free ``places``, each removed from the queue when it is yielded.

        ``held`` are the places that each client has, if they are to be limited: see ``TIMES_FREE``. It is updated.
        """
        passed: list[tuple[int, deque[deque[Row]]]] = []
        while places and self._clients:
            client, requests = self._clients.popitem(last=False)
            if held is not None:
                if held[client] >= TIMES_FREE * places:
                    passed.append((client, requests))
                    continue
                held[client] += 1
            places -= 1
            self._rows -= 1
            request = requests.popleft()
            row = request.popleft()
            if request:
                requests.append(request)
            if requests:
                self._clients[client] = requests
            yield row
        for client, requests in reversed(passed):
            self._clients[client] = requests
            self._clients.move_to_end(client, last=False)
