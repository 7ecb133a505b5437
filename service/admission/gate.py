"""The door of one model: how much predicted device time may be accepted and not yet finished."""

import math

from service.errors import Overloaded


class Gate:
    """Counts accepted device milliseconds against a bound; used on the event loop only."""

    def __init__(self, limit_ms: float) -> None:
        self.limit_ms = limit_ms
        self.accepted_ms = 0.0
        self._accepted = 0

    def admit(self, price_ms: float) -> None:
        """Accept work of ``price_ms``, to be given back with ``release``.

        An idle model takes any one request, however dear: refusing it would refuse it for ever.

        Raises:
            Overloaded: it does not fit; says after how many seconds enough of the queue will have been worked off.
        """
        over_ms = self.accepted_ms + price_ms - self.limit_ms
        if self._accepted and over_ms > 0:
            raise Overloaded(
                f"The queue holds {self.accepted_ms / 1000:.1f} s of work and takes {self.limit_ms / 1000:.1f} s.",
                retry_after_s=max(1, math.ceil(min(over_ms, self.accepted_ms) / 1000)),
            )
        self.accepted_ms += price_ms
        self._accepted += 1

    def release(self, price_ms: float) -> None:
        """Give back what ``admit`` took, when the work is finished or dropped."""
        self._accepted -= 1
        # What rounding leaves of a sum must not make an idle model look busy.
        self.accepted_ms = max(0.0, self.accepted_ms - price_ms) if self._accepted else 0.0
