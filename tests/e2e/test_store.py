"""Jobs in a file or on a server outlive the processes that compute them."""

import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from tests.e2e.process import SAME_BYTES, SECONDS, Service, serving
from tests.redis_server import shared_server
from tests.service.api.conftest import base64_png, some_picture

pytestmark = pytest.mark.slow

ASYNC = {"Prefer": "respond-async"}
#: Seconds of work each on any machine, so that they are open when the process dies.
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/generate/ddpm", {"n": 8, "steps": 600, "preview_every": 100}),
    ("/generate/ddpm", {"n": 4, "steps": 300, "image": base64_png(some_picture()), "strength": 0.9}),
    ("/interpolate", {"model": "ddpm", "frames": 6, "steps": 300}),
    ("/encode/ddpm", {"image": [base64_png(some_picture(seed)) for seed in (1, 2)], "steps": 300}),
]


class Kept:
    """Where jobs are kept: a file of ``folder``, or its part of a Redis server."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.file = folder / "jobs.db" if kind == "sqlite" else None
        self.url = f"sqlite:///{self.file}" if self.file else shared_server().url(folder)
        self.settings: dict[str, object] = {**SAME_BYTES, "store": self.url}

    def open_jobs(self) -> int:
        """Number of open jobs."""
        if self.file is None:
            with Redis.from_url(self.url) as server:
                return int(str(server.scard("{genserve-1}:jobs:open")))
        with sqlite3.connect(self.file) as connection:
            count: int = connection.execute("SELECT count(*) FROM jobs WHERE ended IS NULL").fetchone()[0]
        connection.close()
        return count

    def wait_until_written(self) -> None:
        """Return when the store has the end of every job: a process that dies before that computes them again."""
        give_up = time.monotonic() + SECONDS
        while self.open_jobs():
            assert time.monotonic() < give_up
            time.sleep(0.01)


@pytest.fixture(params=["sqlite", "redis"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    return Kept(request.param, tmp_path)


def submitted(service: Service) -> list[dict[str, Any]]:
    """A job of each request."""
    answers = [service.client.post(path, json=fields, headers=ASYNC) for path, fields in REQUESTS]
    assert [answer.status_code for answer in answers] == [202] * len(REQUESTS)
    return [answer.json() for answer in answers]


def result(service: Service, job: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a job that succeeds."""
    headers = {"Prefer": "wait=60", "Accept": "application/json"}
    answer = service.client.get(job["urls"]["result"], headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def require_undisturbed(service: Service, results: list[dict[str, Any]]) -> None:
    """The pictures are those of requests that nothing interrupts, with the seeds that were drawn."""
    for (path, _), told in zip(REQUESTS, results, strict=True):
        answer = service.client.post(path, json=told["params"], headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.text
        assert [each["b64_json"] for each in answer.json()["images"]] == [each["b64_json"] for each in told["images"]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_accepted_jobs_are_computed_after_a_restart(tiny_weights: Path, kept: Kept, number: int) -> None:
    key = {"Idempotency-Key": "once"}
    with serving(tiny_weights, **kept.settings, drain_s=0.1, drain_delay_s=0) as service:
        first = service.client.post("/generate/vae", headers=key)
        done = service.client.post("/generate/vae", headers=ASYNC).json()
        before = result(service, done)
        kept.wait_until_written()
        jobs = submitted(service)
        service.stop(number)
    assert kept.open_jobs() > 0
    with serving(tiny_weights, **kept.settings) as service:
        results = [result(service, job) for job in jobs]
        assert [told["id"] for told in results] == [job["id"] for job in jobs]
        require_undisturbed(service, results)
        assert result(service, done) == before
        again = service.client.post("/generate/vae", headers=key)
        assert (again.headers["idempotent-replayed"], again.content) == ("true", first.content)
        assert {job["id"] for job in service.client.get("/jobs").json()["jobs"]} == {
            each["id"] for each in (done, *jobs)
        }
        assert service.errors_logged() == []


def test_another_process_takes_over(tiny_weights: Path, kept: Kept) -> None:
    with serving(tiny_weights, **kept.settings) as dying, serving(tiny_weights, **kept.settings) as service:
        jobs = submitted(dying)
        with service.client.stream("GET", jobs[0]["urls"]["events"]) as response:
            lines = response.iter_lines()
            assert "event: started" in lines  # of the process that computes it
            dying.stop(signal.SIGKILL)
            told = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        assert (told.count("image"), told[-1]) == (8, "completed")
        require_undisturbed(service, [result(service, job) for job in jobs])


def test_processes_share_limits_and_keys(tiny_weights: Path, kept: Kept) -> None:
    shared = kept.settings | {"max_jobs": 2}
    with serving(tiny_weights, **shared) as one, serving(tiny_weights, **shared) as other:
        long = {"n": 64, "steps": 1000}
        first, second = (each.client.post("/generate/ddpm", json=long, headers=ASYNC).json() for each in (one, other))
        full = one.client.post("/generate/ddpm", json=long, headers=ASYNC)
        assert (full.status_code, full.json()["code"]) == (503, "jobs-full")
        assert one.client.post(second["urls"]["cancel"]).json()["status"] == "canceled"
        assert other.client.delete(first["urls"]["self"]).status_code == 204
        for service in (one, other):
            service.wait_until_idle()
            assert service.client.get(second["urls"]["result"]).status_code == 410
            assert service.client.get(first["urls"]["self"]).json()["code"] == "job-expired"
        answers: list[httpx2.Response] = [
            each.client.post("/generate/vae", headers={"Idempotency-Key": "both"}) for each in (one, other)
        ]
        assert answers[0].content == answers[1].content
        assert "idempotent-replayed" in answers[1].headers


def test_a_file_of_another_program_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("CREATE TABLE somebody_elses (id)")
    connection.close()
    refused = pytest.raises(AssertionError, match="is a database of another program, not a job store")
    with refused, serving(tiny_weights, store=f"sqlite:///{tmp_path}/jobs.db"):
        pass
