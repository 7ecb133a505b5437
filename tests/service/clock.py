"""A clock that tests set by hand."""


class Clock:
    """Seconds, in place of the ``time`` module of what is tested, or of the function that it is given."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def __call__(self) -> float:
        return self.now
