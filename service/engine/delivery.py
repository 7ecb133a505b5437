"""What a tick hands to jobs: finished rows and previews, delivered on the event loop."""

import logging
from collections.abc import Sequence

from service.engine.results import Preview, Result
from service.engine.submission import Job
from service.engine.table import LiveRow
from service.errors import ComputeFailed

log = logging.getLogger(__name__)

#: A row that leaves the table, with its result or the reason why it has none.
FinishedRow = tuple[LiveRow, Result | ComputeFailed]
#: A row that continues, with a preview of it.
PreviewedRow = tuple[LiveRow, Preview]


def deliver(finished: Sequence[FinishedRow], previews: Sequence[PreviewedRow], now: float) -> None:
    """Pass a tick's results to their jobs; ``now`` is the monotonic clock in seconds.

    A job that raises fails alone: the other rows of the tick belong to other requests.
    """
    for row, preview in previews:
        try:
            row.job.preview(preview)
        except Exception:
            _fail(row.job)
    for row, outcome in finished:
        try:
            if isinstance(outcome, ComputeFailed):
                row.job.fail(outcome)
            else:
                row.job.deliver(row.index, outcome, now)
        except Exception:
            _fail(row.job)


def engine_fault() -> ComputeFailed:
    """The error of a row that failed because of the engine, not of its model."""
    return ComputeFailed("The service failed to compute this picture; its log says why.")


def _fail(job: Job) -> None:
    log.exception("a job rejected its result")
    job.fail(engine_fault())
