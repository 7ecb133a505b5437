"""Admission control of one model: bounds the predicted device time that is admitted and not finished."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.admission.drain import DrainRate
from service.admission.queue import most_places
from service.admission.shared import LaneLoad
from service.errors import Overloaded, ShareExceeded, TooLate

#: Fraction of the deadline that the estimate may use; at 1.0 half of the requests admitted just in time are late.
HEADROOM = 0.7
#: Sums of prices are whole nanoseconds. They are exact in any order of additions: rounding never makes an account
#: without requests look busy.
NS_PER_MS = 1_000_000
NS_PER_S = 1000 * NS_PER_MS


class WorkRequest(NamedTuple):
    """Work of one request: ``rows`` pictures, each ``calls`` rows of forward passes at ``call_ms`` milliseconds a row.

    ``client`` is the address of its client, ``within_s`` the seconds left until its deadline.
    """

    rows: int
    calls: int
    call_ms: float
    client: str = ""
    within_s: float = math.inf

    @property
    def price_ms(self) -> float:
        """Predicted device milliseconds."""
        return self.rows * self.calls * self.call_ms


class Gate:
    """Admits work within bounds; used on the event loop only.

    ``limit_ms`` bounds the model's admitted work, ``client_share`` is the fraction of it for one client. ``drain``
    estimates the throughput. ``table_rows`` is the size of the table: what one client gets of it is served in turn, and
    further rows wait for a place.

    ``others`` is what the other API processes have admitted to the same model: it counts in every bound. Processes that
    admit at the same moment do not see each other, and may exceed a bound by one request for each other process.
    """

    def __init__(
        self, limit_ms: float, client_share: float, drain: DrainRate, table_rows: int, others: LaneLoad | None = None
    ) -> None:
        self.drain = drain
        self._limit_ns, self._client_limit_ns = _ns(limit_ms), _ns(limit_ms * client_share)
        self._table_rows, self._others = most_places(table_rows), others
        # Work that this process has admitted: its price, in all and by client, and its rows by number of calls.
        self._admitted_ns = 0
        self._client_ns: dict[str, int] = {}
        self._rows_by_calls: dict[int, int] = {}

    @property
    def accepted_ms(self) -> float:
        """Predicted device milliseconds that this process has admitted and that are not finished."""
        return self._admitted_ns / NS_PER_MS

    def admit(self, *parts: WorkRequest) -> None:
        """Admit the parts of one request, all or none; ``release`` returns each of them.

        The parts have one client and one deadline, and are computed one after another. An idle model admits any
        request, because one rejected now would always be rejected. For the same reason a client with no admitted work
        is not held to its share. The engine bounds the price of a request.

        Raises:
            Overloaded: the queue is full.
            ShareExceeded: the client's share of the queue is used up.
            TooLate: the queue is too long to meet the deadline.
        """
        client = parts[0].client
        admitted_ns, client_ns = self._admitted_ns, self._client_ns.get(client, 0)
        if self._others is not None:
            admitted_ns += self._others.admitted_ns()
            client_ns += self._others.client_ns(client)
        if admitted_ns:
            self._check(parts, admitted_ns, client_ns)
        for rows, calls, call_ms, client, _ in parts:
            self._count(client, _ns(rows * calls * call_ms), calls, rows)

    def release(self, part: WorkRequest) -> None:
        """Return an admitted part, when its work is finished or dropped."""
        rows, calls, call_ms, client, _ = part
        self._count(client, -_ns(rows * calls * call_ms), calls, -rows)

    def seconds_until_done(self, calls: int, call_ms: float) -> float:
        """Seconds until rows in the table with ``calls`` forward passes left, ``call_ms`` each, are done in turn."""
        return self.drain.seconds_for(self._turns(calls) * call_ms)

    def _count(self, client: str, price_ns: int, calls: int, rows: int) -> None:
        """Add work; a negative price and negative rows take it away. What is 0 then is forgotten."""
        self._admitted_ns += price_ns
        if total_ns := self._client_ns.get(client, 0) + price_ns:
            self._client_ns[client] = total_ns
        else:
            del self._client_ns[client]
        if total_rows := self._rows_by_calls.get(calls, 0) + rows:
            self._rows_by_calls[calls] = total_rows
        else:
            self._rows_by_calls.pop(calls, None)
        if self._others is not None:
            self._others.count(client, price_ns, calls, rows)

    def _check(self, parts: Sequence[WorkRequest], admitted_ns: int, client_ns: int) -> None:
        """Raise as ``admit``, for a model with ``admitted_ns`` of work, ``client_ns`` of it for the client."""
        price_ns = 0
        for rows, calls, call_ms, _, _ in parts:
            price_ns += _ns(rows * calls * call_ms)
        after_ns = admitted_ns + price_ns
        if after_ns > self._limit_ns:
            wait_s = self._wait_s(after_ns - self._limit_ns, admitted_ns)
            raise Overloaded(admitted_ns / NS_PER_S, self._limit_ns / NS_PER_S, wait_s)
        if client_ns and client_ns + price_ns > self._client_limit_ns:
            wait_s = self._wait_s(client_ns + price_ns - self._client_limit_ns, admitted_ns)
            raise ShareExceeded(client_ns / NS_PER_S, self._client_limit_ns / NS_PER_S, wait_s)
        within_s = HEADROOM * parts[0].within_s
        # An upper bound first: all admitted work. It is cheaper than the exact amount before this request.
        if self.drain.seconds_for(after_ns / NS_PER_MS) > within_s:
            fair_ns = self._fair_ns(parts[0].client, client_ns + price_ns)
            late_s = self._seconds_for(min(fair_ns, self._until_done_ns(parts, price_ns, after_ns))) - within_s
            if late_s > 0:
                raise TooLate(admitted_ns / NS_PER_S, parts[0].within_s, math.ceil(late_s))

    def _until_done_ns(self, parts: Sequence[WorkRequest], price_ns: int, after_ns: int) -> float:
        """Device time until ``parts``, of ``price_ns``, are done one after another, of ``after_ns`` in all.

        Rows in the table are served in turn, so until then no other row is served more often than those of ``parts``.
        A row that does not fit into the table may wait for all that are in it.
        """
        rows = sum(self._rows_by_calls.values()) + (0 if self._others is None else self._others.rows())
        if rows + max([part.rows for part in parts]) > self._table_rows:
            return after_ns
        return self._turns(sum([part.calls for part in parts])) * parts[0].call_ms * NS_PER_MS + price_ns

    def _fair_ns(self, client: str, own_ns: int) -> int:
        """Device time until ``own_ns`` of work of ``client`` are done, because all clients are served in turn."""
        others = [each for each in self._client_ns if each != client]
        clients = len(others) if self._others is None else self._others.clients(others, client)
        return (1 + clients) * own_ns

    def _turns(self, calls: int) -> int:
        """Forward passes of all admitted rows until a row has had ``calls`` of them."""
        own = sum([rows * min(each, calls) for each, rows in self._rows_by_calls.items()])
        return own if self._others is None else own + self._others.turns(calls)

    def _seconds_for(self, work_ns: float) -> float:
        return self.drain.seconds_for(work_ns / NS_PER_MS)

    def _wait_s(self, over_ns: int, admitted_ns: int) -> int:
        """Whole seconds, at least 1, until ``over_ns`` of the admitted work are completed."""
        return max(1, math.ceil(self._seconds_for(min(over_ns, admitted_ns))))


def _ns(ms: float) -> int:
    """Whole nanoseconds, at least 1: admitted work is never 0."""
    return int(ms * NS_PER_MS) or 1
