import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.process import Service, post, read_to_end, reset, serving

ASYNC = {"Prefer": "respond-async"}
LONG = {"n": 64, "steps": 1000}
Event = tuple[int, str, dict[str, Any]]


def events(response: httpx2.Response) -> Iterator[Event]:
    """Events as they come."""
    assert response.status_code == 200
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, text = line.partition(": ")
            fields[name] = text
        elif "event" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def begin(service: Service, **fields: object) -> dict[str, Any]:
    """A job."""
    response = service.client.post("/generate/ddpm", json=fields, headers=ASYNC)
    assert response.status_code == 202
    job: dict[str, Any] = response.json()
    assert response.headers["location"] == job["urls"]["self"]
    return job


def poll(service: Service, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is told of a job until it ends."""
    while True:
        told = service.client.get(job["urls"]["self"]).json()
        yield told
        if told["status"] not in ("queued", "running"):
            return


def test_previews_come_live_and_in_order(service: Service) -> None:
    body = {"n": 2, "steps": 400, "seed": 5, "preview_every": 50, "stream": True}
    with service.client.stream("POST", "/generate/ddpm", json=body) as response:
        told = events(response)
        first = next(event for event in told if event[1] == "preview")
        # It is shown while the work goes on.
        assert service.sample("accepted_work_seconds") > 0
        rest = [first, *told]
    assert [id for id, _, _ in rest] == list(range(first[0], first[0] + len(rest)))
    for index in (0, 1):
        steps = [data["step"] for _, name, data in rest if name == "preview" and data["index"] == index]
        assert steps == list(range(0, 400, 50))
    assert [name for _, name, _ in rest[-3:]] == ["image", "image", "completed"]
    plain = service.client.post("/generate/ddpm", json={"n": 2, "steps": 400, "seed": 5, "format": "json"}).json()
    assert rest[-1][2]["params"] == plain["params"]
    assert [image["seed"] for image in rest[-1][2]["images"]] == [5, 6]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(post("/generate/ddpm", json.dumps({**LONG, "stream": True}).encode()), id="POST"),
        pytest.param(b"GET /generate/ddpm?n=64&steps=1000&stream=true HTTP/1.1\r\nHost: localhost\r\n\r\n", id="GET"),
        pytest.param(post("/generate/ddpm", json.dumps(LONG).encode(), "Prefer: wait=60"), id="wait"),
    ],
)
@pytest.mark.parametrize("abruptly", [False, True])
def test_leaving_stops_the_work(service: Service, sent: bytes, abruptly: bool) -> None:
    made, files = service.sample("images_total"), service.open_files()
    connections = [service.connect() for _ in range(3)]
    for connection in connections:
        connection.sendall(sent)
        if b"wait" not in sent:
            assert b"200 OK" in read_to_end(connection, b"event: preview")
    service.wait_for("live_rows", at_least=1)
    for connection in connections:
        reset(connection) if abruptly else connection.close()
    service.wait_until_idle()
    assert service.sample("images_total") == made
    service.wait_until_closed(files)


def test_a_job_is_polled_and_read(service: Service) -> None:
    job = begin(service, n=8, steps=500, seed=3)
    told = list(poll(service, job))
    assert told[-1]["status"] == "succeeded"
    progress = [each["progress"] for each in told]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    result = service.client.get(job["urls"]["result"])
    assert (result.status_code, result.headers["content-type"]) == (200, "image/png")
    assert result.headers["x-seed"].startswith("3, 4, ")


def test_events_are_heard_again_after_a_break(service: Service) -> None:
    job = begin(service, n=2, steps=600, preview_every=100)
    with service.client.stream("GET", job["urls"]["events"]) as response:
        heard = next(event for event in events(response) if event[1] == "preview")
    with service.client.stream("GET", job["urls"]["events"], headers={"Last-Event-ID": str(heard[0])}) as response:
        rest = list(events(response))
    assert rest[0][0] == heard[0] + 1
    assert rest[-1][1] == "completed"
    assert sum(name == "preview" for _, name, _ in rest) >= 10
    over = service.client.get(job["urls"]["events"], headers={"Last-Event-ID": str(rest[-1][0])})
    assert over.status_code == 204


def test_a_long_job_is_canceled_on_its_way(service: Service) -> None:
    job = begin(service, **LONG, solver="ddpm", preview_every=10)
    with service.client.stream("GET", job["urls"]["events"]) as response:
        told = events(response)
        assert next(event for event in told if event[1] == "preview")
        canceled = service.client.post(job["urls"]["cancel"]).json()
        *_, last = told
    assert (last[1], last[2]["code"]) == ("error", "job-canceled")
    assert canceled["status"] == "canceled"
    assert canceled["progress"] < 1
    service.wait_until_idle()
    assert service.client.get(job["urls"]["result"]).status_code == 410
    assert service.client.post(job["urls"]["cancel"]).json()["status"] == "canceled"


def test_many_listeners_hear_the_same(service: Service) -> None:
    job = begin(service, n=2, steps=500, preview_every=100)

    def listen(_: int) -> list[Event]:
        with service.client.stream("GET", job["urls"]["events"]) as response:
            return [event for event in events(response) if event[1] != "queued"]

    with ThreadPoolExecutor(8) as listeners:
        first, *others = listeners.map(listen, range(8))
    assert first[-1][1] == "completed"
    assert all(other == first for other in others)


def test_ended_jobs_make_room_by_bytes(tiny_weights: Path) -> None:
    with serving(tiny_weights, engine_threads=1, job_bytes=30_000) as service:
        jobs = [begin(service, n=8, seed=seed) for seed in range(12)]
        for job in jobs:
            list(poll_or_gone(service, job))
        statuses = [service.client.get(job["urls"]["result"]).status_code for job in jobs]
        assert set(statuses) == {200, 404}
        codes = {service.client.get(job["urls"]["self"]).json().get("code") for job in jobs}
        assert codes == {None, "job-expired"}
        assert service.sample("jobs") == statuses.count(200)


def poll_or_gone(service: Service, job: dict[str, Any]) -> Iterator[int]:
    """Statuses of asking for a result until there is one, or it has gone."""
    while True:
        status = service.client.get(job["urls"]["result"], headers={"Prefer": "wait=5"}).status_code
        yield status
        if status != 409:
            return


@pytest.mark.parametrize(
    ("fields", "drain_s", "last"),
    [
        pytest.param({"n": 8, "steps": 300}, 20, "completed", id="in time"),
        pytest.param(LONG, 0.2, "service-stopping", id="too late", marks=pytest.mark.slow),
    ],
)
def test_stopping_ends_streams(tiny_weights: Path, fields: dict[str, Any], drain_s: float, last: str) -> None:
    with serving(tiny_weights, engine_threads=1, max_bucket=1, max_request_ms=1e9, drain_s=drain_s) as service:
        heard: list[Event] = []
        begun = threading.Event()

        def listen() -> None:
            with service.client.stream("POST", "/generate/ddpm", json={**fields, "stream": True}) as response:
                for event in events(response):
                    heard.append(event)
                    if event[1] == "preview":
                        begun.set()

        with ThreadPoolExecutor(1) as listener:
            listening = listener.submit(listen)
            assert begun.wait(60)
            code = service.stop(signal.SIGTERM)
            listening.result(60)
        assert code == 0
        assert last in (heard[-1][1], heard[-1][2].get("code"))
