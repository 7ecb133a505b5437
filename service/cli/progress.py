"""A progress bar for a job."""

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.client import File, Job, JobStatus

_BAR = "{desc} {percentage:3.0f}%|{bar}|{postfix}"


def follow(job: "Job", title: str) -> "File":
    """Wait for ``job`` and return its pictures, with a progress bar on standard error if that is a terminal.

    A signal, or the loss of the terminal, cancels the job. Raises GenserveError.
    """
    from tqdm import tqdm

    from service.client import GenserveError

    with tqdm(total=1.0, desc=title, bar_format=_BAR, leave=False, disable=None) as bar:

        def show(status: "JobStatus") -> None:
            bar.n = status.progress
            bar.set_postfix_str(queue_text(status))

        try:
            job.wait(show)
        except (KeyboardInterrupt, OSError):
            with suppress(GenserveError):  # it may have ended, or the service may not answer
                job.cancel()
            raise
    return job.file()


def queue_text(status: "JobStatus") -> str:
    """The queue position and the time left."""
    ahead = f"{status.queue_position} pictures ahead" if status.status == "queued" and status.queue_position else ""
    left = "" if status.eta_ms is None else f"{status.eta_ms / 1000:.1f} s left"
    return ", ".join(part for part in (ahead, left) if part)
