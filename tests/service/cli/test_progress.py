import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from service.cli.progress import follow, queue_text
from service.client import File, Job, JobStatus
from service.client.results import read_json
from tests.service.client.answers import status

RUNNING = read_json(JobStatus, json.dumps(status("running", 0.5)))


class FakeJob:
    """A job that tells of itself once, then ends as it is told to."""

    def __init__(self, ends: BaseException | None = None) -> None:
        self.ends, self.canceled = ends, False

    def wait(self, on_status: Callable[[JobStatus], object]) -> None:
        on_status(RUNNING)
        if self.ends is not None:
            raise self.ends

    def file(self) -> File:
        return File(b"the file", "image/png", "ddpm", "0123abcd", (7,))

    def cancel(self) -> None:
        self.canceled = True


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stderr", "shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_only_a_terminal_is_shown_a_bar(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, shown: bool) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    assert follow(cast(Job, FakeJob()), "ddpm").content == b"the file"
    assert ("ddpm  50%" in stderr.getvalue()) == shown
    assert ("0.0 s left" in stderr.getvalue()) == shown


def test_an_interrupted_job_is_given_up() -> None:
    job = FakeJob(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        follow(cast(Job, job), "ddpm")
    assert job.canceled


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (replace(RUNNING, status="queued", queue_position=12, eta_ms=3400.0), "12 pictures ahead, 3.4 s left"),
        (replace(RUNNING, queue_position=12, eta_ms=3400.0), "3.4 s left"),
        (replace(RUNNING, eta_ms=None), ""),
    ],
)
def test_who_goes_first_and_how_long_it_takes(found: JobStatus, told: str) -> None:
    assert queue_text(found) == told
