"""How far a job is, on a terminal."""

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.client import File, Job, JobStatus

_BAR = "{desc} {percentage:3.0f}%|{bar}|{postfix}"


def follow(job: "Job", title: str) -> "File":
    """The pictures of ``job``, with a bar on standard error meanwhile if that is a terminal.

    The job is cancelled when a signal interrupts this, or the terminal goes away. Raises GenserveError.
    """
    from tqdm import tqdm

    from service.client import GenserveError

    with tqdm(total=1.0, desc=title, bar_format=_BAR, leave=False, disable=None) as bar:

        def show(status: "JobStatus") -> None:
            bar.n = status.progress
            bar.set_postfix_str(standing(status))

        try:
            job.wait(show)
        except (KeyboardInterrupt, OSError):
            with suppress(GenserveError):  # it may have ended, or the service may be gone
                job.cancel()
            raise
    return job.file()


def standing(status: "JobStatus") -> str:
    """Who goes first, and how long it will take."""
    ahead = f"{status.queue_position} pictures ahead" if status.status == "queued" and status.queue_position else ""
    left = "" if status.eta_ms is None else f"{status.eta_ms / 1000:.1f} s left"
    return ", ".join(part for part in (ahead, left) if part)
