"""The order in which rows of several clients are served."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


def in_turn(slots: Numbers, clients: Numbers, served: Numbers) -> Numbers:
    """``slots``, first one of each client, then a second one of each, and so on.

    ``clients`` and ``served`` are, of every slot, whose it is and when it was last served; ``slots`` begin with the
    least recently served. The client that was served least recently comes first in each round.
    """
    own = clients[slots]
    if len(slots) == 0 or (own == own[0]).all():
        return slots
    grouped = np.argsort(own, kind="stable")
    begins = np.flatnonzero(np.diff(own[grouped], prepend=~own[grouped[0]]))
    counts = np.diff(begins, append=len(slots))
    place, last = np.empty_like(slots), np.empty_like(slots)
    place[grouped] = np.arange(len(slots)) - np.repeat(begins, counts)
    last[grouped] = np.repeat(served[slots[grouped[begins + counts - 1]]], counts)
    return slots[np.lexsort((last, place))]
