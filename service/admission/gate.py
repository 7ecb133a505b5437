"""Admission control of one model: bounds the predicted device time that is admitted and not finished."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.admission.drain import DrainRate
from service.errors import Overloaded, ShareExceeded, TooLate

#: Fraction of the deadline that the estimate may use; at 1.0 half of the requests admitted just in time are late.
HEADROOM = 0.7


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


class Account:
    """Device milliseconds admitted and not finished; exactly zero when no request is open."""

    def __init__(self) -> None:
        self.ms = 0.0
        self.requests = 0

    def add(self, price_ms: float) -> None:
        """Count an admitted request."""
        self.ms += price_ms
        self.requests += 1

    def take(self, price_ms: float) -> None:
        """A request has ended. Without requests the sum is zero: rounding must not make an idle account look busy."""
        self.requests -= 1
        self.ms = max(0.0, self.ms - price_ms) if self.requests else 0.0


class Gate:
    """Admits work within bounds; used on the event loop only.

    ``limit_ms`` bounds the model's admitted work, ``client_share`` is the fraction of it for one client. ``drain``
    estimates the throughput. ``table_rows`` rows are served in turn; further rows wait for a place in the table.
    """

    def __init__(self, limit_ms: float, client_share: float, drain: DrainRate, table_rows: int) -> None:
        self.drain = drain
        self._limit_ms, self._client_limit_ms, self._table_rows = limit_ms, limit_ms * client_share, table_rows
        self._all = Account()
        self._clients: dict[str, Account] = {}
        self._rows_by_calls: dict[int, int] = {}

    @property
    def accepted_ms(self) -> float:
        """Predicted device milliseconds admitted and not finished."""
        return self._all.ms

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
        account = self._clients.get(parts[0].client)
        if self._all.requests:
            price_ms = sum(part.price_ms for part in parts)
            self._check_limits(price_ms, account)
            self._check_time(parts, price_ms)
        if account is None:
            account = self._clients[parts[0].client] = Account()
        for part in parts:
            self._all.add(part.price_ms)
            account.add(part.price_ms)
            self._rows_by_calls[part.calls] = self._rows_by_calls.get(part.calls, 0) + part.rows

    def release(self, part: WorkRequest) -> None:
        """Return an admitted part, when its work is finished or dropped."""
        price_ms, client = part.price_ms, self._clients[part.client]
        self._all.take(price_ms)
        client.take(price_ms)
        if not client.requests:
            del self._clients[part.client]
        self._rows_by_calls[part.calls] -= part.rows
        if not self._rows_by_calls[part.calls]:
            del self._rows_by_calls[part.calls]

    def seconds_until_done(self, calls: int, call_ms: float) -> float:
        """Seconds until rows in the table with ``calls`` forward passes left, ``call_ms`` each, are done in turn."""
        return self.drain.seconds_for(self._turns(calls) * call_ms)

    def _check_limits(self, price_ms: float, client: Account | None) -> None:
        over_ms = self._all.ms + price_ms - self._limit_ms
        if over_ms > 0:
            raise Overloaded(self._all.ms / 1000, self._limit_ms / 1000, self._wait_s(over_ms))
        if client is None:
            return
        over_ms = client.ms + price_ms - self._client_limit_ms
        if over_ms > 0:
            raise ShareExceeded(client.ms / 1000, self._client_limit_ms / 1000, self._wait_s(over_ms))

    def _check_time(self, parts: Sequence[WorkRequest], price_ms: float) -> None:
        within_s = HEADROOM * parts[0].within_s
        # An upper bound first: all admitted work. It is cheaper than the exact amount before this request.
        if self.drain.seconds_for(self._all.ms + price_ms) <= within_s:
            return
        late_s = self.drain.seconds_for(self._work_until_done(parts, price_ms)) - within_s
        if late_s > 0:
            raise TooLate(self._all.ms / 1000, parts[0].within_s, math.ceil(late_s))

    def _work_until_done(self, parts: Sequence[WorkRequest], price_ms: float) -> float:
        """Device milliseconds until ``parts``, of ``price_ms``, are done one after another.

        Rows in the table are served in turn, so until then no other row is served more often than those of ``parts``.
        A row that does not fit into the table may wait for all that are in it.
        """
        if sum(self._rows_by_calls.values()) + max(part.rows for part in parts) > self._table_rows:
            return self._all.ms + price_ms
        return self._turns(sum(part.calls for part in parts)) * parts[0].call_ms + price_ms

    def _turns(self, calls: int) -> int:
        """Forward passes of all admitted rows until a row has had ``calls`` of them."""
        return sum(rows * min(each, calls) for each, rows in self._rows_by_calls.items())

    def _wait_s(self, over_ms: float) -> int:
        """Whole seconds, at least 1, until ``over_ms`` of the admitted work are completed."""
        return max(1, math.ceil(self.drain.seconds_for(min(over_ms, self._all.ms))))
