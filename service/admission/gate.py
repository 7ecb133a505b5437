"""The door of one model: how much predicted device time may be accepted and not yet finished, and for whom."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.admission.drain import DrainRate
from service.errors import Overloaded, ShareExceeded, TooLate

#: What part of the time given may be predicted to pass: just short enough a queue makes every second answer late.
HEADROOM = 0.7


class Ask(NamedTuple):
    """What a request wants of the device: ``rows`` pictures, each ``calls`` rows of network calls at ``call_ms``.

    ``client`` is whoever asks; ``within_s`` is for how long the answer is of use.
    """

    rows: int
    calls: int
    call_ms: float
    client: str = ""
    within_s: float = math.inf

    @property
    def price_ms(self) -> float:
        """Device milliseconds of all of it."""
        return self.rows * self.calls * self.call_ms


class Account:
    """Device milliseconds accepted and not finished; exactly zero when no request is open."""

    def __init__(self) -> None:
        self.ms = 0.0
        self.requests = 0

    def add(self, price_ms: float) -> None:
        """A request is accepted."""
        self.ms += price_ms
        self.requests += 1

    def take(self, price_ms: float) -> None:
        """A request is over. What rounding leaves of a sum must not make an idle account look busy."""
        self.requests -= 1
        self.ms = max(0.0, self.ms - price_ms) if self.requests else 0.0


class Gate:
    """Counts accepted work against bounds; used on the event loop only.

    ``limit_ms`` bounds the model's accepted work, ``client_share`` the part of it that one client may have. ``drain``
    is how fast it is done, and ``table_rows`` of its rows are served in turn; any more wait for their place.
    """

    def __init__(self, limit_ms: float, client_share: float, drain: DrainRate, table_rows: int) -> None:
        self.drain = drain
        self._limit_ms, self._client_limit_ms, self._table_rows = limit_ms, limit_ms * client_share, table_rows
        self._all = Account()
        self._clients: dict[str, Account] = {}
        self._rows_by_calls: dict[int, int] = {}

    @property
    def accepted_ms(self) -> float:
        """Predicted device milliseconds accepted and not finished."""
        return self._all.ms

    def admit(self, *asks: Ask) -> None:
        """Accept what one request asks for, all of it or nothing; ``release`` gives each of ``asks`` back.

        ``asks`` are of one client and within one time, and are computed one after another. An idle model takes any one
        request, however late: refusing it would refuse it for ever. So does a model that has room and nothing of this
        client. How dear a request may be, the engine says.

        Raises:
            Overloaded: the queue is full.
            ShareExceeded: the client has its share of the queue.
            TooLate: the queue is too long for an answer in time.
        """
        account = self._clients.get(asks[0].client)
        if self._all.requests:
            price_ms = sum(ask.price_ms for ask in asks)
            self._check_room(price_ms, account)
            self._check_time(asks, price_ms)
        if account is None:
            account = self._clients[asks[0].client] = Account()
        for ask in asks:
            self._all.add(ask.price_ms)
            account.add(ask.price_ms)
            self._rows_by_calls[ask.calls] = self._rows_by_calls.get(ask.calls, 0) + ask.rows

    def release(self, ask: Ask) -> None:
        """Give back one of the asks that ``admit`` took, when its work is finished or dropped."""
        price_ms, client = ask.price_ms, self._clients[ask.client]
        self._all.take(price_ms)
        client.take(price_ms)
        if not client.requests:
            del self._clients[ask.client]
        self._rows_by_calls[ask.calls] -= ask.rows
        if not self._rows_by_calls[ask.calls]:
            del self._rows_by_calls[ask.calls]

    def seconds_until_done(self, calls: int, call_ms: float) -> float:
        """When rows that have a place, and ``calls`` calls left at ``call_ms``, will be done, served in turn."""
        return self.drain.seconds_for(self._turns(calls) * call_ms)

    def _check_room(self, price_ms: float, client: Account | None) -> None:
        over_ms = self._all.ms + price_ms - self._limit_ms
        if over_ms > 0:
            raise Overloaded(self._all.ms / 1000, self._limit_ms / 1000, self._wait_s(over_ms))
        if client is None:
            return
        over_ms = client.ms + price_ms - self._client_limit_ms
        if over_ms > 0:
            raise ShareExceeded(client.ms / 1000, self._client_limit_ms / 1000, self._wait_s(over_ms))

    def _check_time(self, asks: Sequence[Ask], price_ms: float) -> None:
        within_s = HEADROOM * asks[0].within_s
        # All that is accepted is more than what comes before it, and is quicker known.
        if self.drain.seconds_for(self._all.ms + price_ms) <= within_s:
            return
        late_s = self.drain.seconds_for(self._work_until_done(asks, price_ms)) - within_s
        if late_s > 0:
            raise TooLate(self._all.ms / 1000, asks[0].within_s, math.ceil(late_s))

    def _work_until_done(self, asks: Sequence[Ask], price_ms: float) -> float:
        """Device milliseconds until ``asks``, which cost ``price_ms``, are done one after another.

        Rows are served in turn, so no row is served more often than those of ``asks``. That holds while all of them
        have places; one that waits for a place may do so until all that have one are done.
        """
        if sum(self._rows_by_calls.values()) + max(ask.rows for ask in asks) > self._table_rows:
            return self._all.ms + price_ms
        return self._turns(sum(ask.calls for ask in asks)) * asks[0].call_ms + price_ms

    def _turns(self, calls: int) -> int:
        """Calls of all accepted rows until one of them has had ``calls``."""
        return sum(rows * min(each, calls) for each, rows in self._rows_by_calls.items())

    def _wait_s(self, over_ms: float) -> int:
        """After how many seconds ``over_ms`` of what is accepted will have been worked off."""
        return max(1, math.ceil(self.drain.seconds_for(min(over_ms, self._all.ms))))
