"""Jobs in a file outlive the processes that compute them."""

import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.process import SECONDS, Service, serving
from tests.service.api.conftest import base64_png, some_picture

pytestmark = pytest.mark.slow

ASYNC = {"Prefer": "respond-async"}
#: Every forward pass has the same size: the same request gives the same bytes, whatever else is computed.
SETTINGS: dict[str, object] = {
    "engine_threads": 1,
    "deterministic": "true",
    "max_bucket": 4,
    "max_queue_ms": 1e9,
    "max_request_ms": 1e9,
    "client_share": 1.0,
}
#: Seconds of work each on any machine, so that they are open when the process dies.
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/generate/ddpm", {"n": 8, "steps": 600, "preview_every": 100}),
    ("/generate/ddpm", {"n": 4, "steps": 300, "image": base64_png(some_picture()), "strength": 0.9}),
    ("/interpolate", {"model": "ddpm", "frames": 6, "steps": 300}),
    ("/encode/ddpm", {"image": [base64_png(some_picture(seed)) for seed in (1, 2)], "steps": 300}),
]


def store(folder: Path) -> dict[str, object]:
    return {**SETTINGS, "store": f"sqlite:///{folder}/jobs.db"}


def submitted(service: Service) -> list[dict[str, Any]]:
    """A job of each request."""
    answers = [service.client.post(path, json=fields, headers=ASYNC) for path, fields in REQUESTS]
    assert [answer.status_code for answer in answers] == [202] * len(REQUESTS)
    return [answer.json() for answer in answers]


def open_jobs(folder: Path) -> int:
    with sqlite3.connect(folder / "jobs.db") as connection:
        count: int = connection.execute("SELECT count(*) FROM jobs WHERE ended IS NULL").fetchone()[0]
    connection.close()
    return count


def wait_until_written(folder: Path) -> None:
    """Return when the file has the end of every job: a process that dies before that computes them again."""
    give_up = time.monotonic() + SECONDS
    while open_jobs(folder):
        assert time.monotonic() < give_up
        time.sleep(0.01)


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
def test_accepted_jobs_are_computed_after_a_restart(tiny_weights: Path, tmp_path: Path, number: int) -> None:
    key = {"Idempotency-Key": "once"}
    with serving(tiny_weights, **store(tmp_path), drain_s=0.1) as service:
        kept = service.client.post("/generate/vae", headers=key)
        done = service.client.post("/generate/vae", headers=ASYNC).json()
        before = result(service, done)
        wait_until_written(tmp_path)
        jobs = submitted(service)
        service.stop(number)
    assert open_jobs(tmp_path) > 0
    with serving(tiny_weights, **store(tmp_path)) as service:
        results = [result(service, job) for job in jobs]
        assert [told["id"] for told in results] == [job["id"] for job in jobs]
        require_undisturbed(service, results)
        assert result(service, done) == before
        again = service.client.post("/generate/vae", headers=key)
        assert (again.headers["idempotent-replayed"], again.content) == ("true", kept.content)
        assert {job["id"] for job in service.client.get("/jobs").json()["jobs"]} == {
            each["id"] for each in (done, *jobs)
        }
        assert service.errors_logged() == []


def test_another_process_takes_over(tiny_weights: Path, tmp_path: Path) -> None:
    with serving(tiny_weights, **store(tmp_path)) as dying, serving(tiny_weights, **store(tmp_path)) as service:
        jobs = submitted(dying)
        with service.client.stream("GET", jobs[0]["urls"]["events"]) as response:
            lines = response.iter_lines()
            assert "event: started" in lines  # of the process that computes it
            dying.stop(signal.SIGKILL)
            told = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        assert (told.count("image"), told[-1]) == (8, "completed")
        require_undisturbed(service, [result(service, job) for job in jobs])


def test_processes_share_limits_and_keys(tiny_weights: Path, tmp_path: Path) -> None:
    shared = store(tmp_path) | {"max_jobs": 2}
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
    with refused, serving(tiny_weights, **store(tmp_path)):
        pass
