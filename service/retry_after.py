"""Jitter for Retry-After."""

import random
from collections.abc import Callable


def spread(least_s: int, draw: Callable[[int, int], int] = random.randint) -> int:
    """Whole seconds from ``least_s`` to 1.5 ``least_s`` + 1, all equally likely.

    Clients that are rejected at the same moment would otherwise return at the same moment, and be rejected again.
    ``draw`` is given the two ends. Forked processes draw different numbers: Python seeds ``random`` again in each.
    """
    return draw(least_s, least_s + least_s // 2 + 1)
