"""The service, batching by request as most servers do: a batch runs to its end before the next one begins.

`benchmarks.mixed` compares the service with it. It is one process: the lanes are replaced in this one only.

    GENSERVE_PORT=8000 python -m benchmarks.by_request
"""

import os
import sys

from service import __main__ as service
from service.engine import host
from service.engine.lane import Lane


class LaneByRequest(Lane):
    """A lane in which rows join only when no row is left in the table."""

    @property
    def free_slots(self) -> int:
        """One bucket of rows while the table is empty, none otherwise."""
        return 0 if self.live else min(super().free_slots, self.cost.best_bucket)


def main() -> int:
    """Serve until stopped; returns the exit code."""
    os.environ["GENSERVE_ENGINE"] = "inline"
    host.Lane = LaneByRequest  # type: ignore[attr-defined]
    return service.main()


if __name__ == "__main__":
    sys.exit(main())
