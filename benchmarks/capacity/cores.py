"""Simulated time, and cores that threads share."""

import itertools
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush


class Clock:
    """Actions in the order of their times; those of one time in the order in which they were scheduled."""

    def __init__(self) -> None:
        self.now = 0.0
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Schedule ``action``."""
        heappush(self._actions, (time, next(self._numbers), action))

    def run(self) -> None:
        """Do all actions, and those that they schedule."""
        while self._actions:
            self.now, _, action = heappop(self._actions)
            action()


class Cores:
    """Cores that busy threads share evenly, each at most one.

    All busy threads advance at one rate, so one virtual clock serves all of them: it advances at that rate, and a
    thread ends when the clock has advanced by its work.
    """

    def __init__(self, clock: Clock, count: float) -> None:
        self._clock, self._count = clock, count
        self._busy: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._virtual, self._updated_at, self._plans = 0.0, 0.0, 0
        #: Core seconds used so far.
        self.used_s = 0.0

    def work(self, seconds: float, done: Callable[[], None]) -> None:
        """Have a thread use ``seconds`` of a core, then call ``done``."""
        self._advance()
        heappush(self._busy, (self._virtual + seconds, next(self._numbers), done))
        self._plan()

    @property
    def _rate(self) -> float:
        return min(1.0, self._count / len(self._busy)) if self._busy else 0.0

    def _advance(self) -> None:
        advanced = (self._clock.now - self._updated_at) * self._rate
        self._virtual += advanced
        self.used_s += advanced * len(self._busy)
        self._updated_at = self._clock.now

    def _plan(self) -> None:
        self._plans += 1
        if self._busy:
            left = max(0.0, self._busy[0][0] - self._virtual)
            self._clock.at(self._clock.now + left / self._rate, partial(self._finish, self._plans))

    def _finish(self, plan: int) -> None:
        if plan != self._plans:  # other threads have begun or ended since
            return
        self._advance()
        self._virtual, _, done = heappop(self._busy)
        self._plan()
        done()
