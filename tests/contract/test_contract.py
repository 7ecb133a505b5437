"""What clients rely on, whatever runs behind the address: `pytest tests/contract --base-url URL`."""

import io
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.contract.conftest import Target, stop
from tests.e2e.process import SECONDS

pytestmark = pytest.mark.slow

ASYNC = {"Prefer": "respond-async"}
#: Connections for one question: every process of the target gets some of them.
EACH = 6


@pytest.fixture(scope="module")
def model(target: Target) -> str:
    """A model of the target whose pictures take steps."""
    with target.client() as client:
        cards = client.get("/models").json()
    return next(str(card["name"]) for card in cards if "steps" in card["tasks"]["generate"])


def pixels(response: httpx2.Response) -> np.ndarray[Any, Any]:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content))).astype(int)


def everywhere(target: Target, ask: Callable[[httpx2.Client], httpx2.Response]) -> list[httpx2.Response]:
    """The answers to one question over several connections."""
    answers = []
    for _ in range(EACH):
        with target.client() as client:
            answers.append(ask(client))
    return answers


def begin(target: Target, model: str, **fields: object) -> dict[str, Any]:
    with target.client() as client:
        answer = client.post(f"/generate/{model}", json=fields, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def no_longer_running(client: httpx2.Client, result: str) -> httpx2.Response:
    """The answer for the result of a cancelled job, once the process that computes it has noticed."""
    give_up = time.monotonic() + SECONDS
    while (answer := client.get(result)).status_code == 409 and time.monotonic() < give_up:
        time.sleep(0.05)
    return answer


def begin_long(target: Target, model: str) -> list[dict[str, Any]]:
    """Jobs that take a while, as long as the limits of the target allow."""
    with target.client() as client:
        for fields in ({"n": 64, "steps": 1000}, {"n": 4, "steps": 100}, {"n": 1, "steps": 20}):
            answers = [client.post(f"/generate/{model}", json=fields, headers=ASYNC) for _ in range(3)]
            if answers[0].status_code != 422:
                return [answer.json() for answer in answers if answer.status_code == 202]
    raise AssertionError(answers[0].text)


def path(url: str) -> str:
    return httpx2.URL(url).path


def events(answer: httpx2.Response) -> list[tuple[int, str]]:
    """Ids and names of the events of a stream."""
    assert answer.status_code == 200, answer.text
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in answer.text.split("\n\n")
    ]
    return [(int(each["id"]), each["event"]) for each in blocks if "event" in each]


def test_the_same_seed_is_the_same_picture_everywhere(target: Target, model: str) -> None:
    answers = everywhere(target, lambda client: client.post(f"/generate/{model}", json={"seed": 7}))
    first = pixels(answers[0])
    for answer in answers[1:]:
        assert np.abs(pixels(answer) - first).max() <= 1
    (other,) = everywhere(target, lambda client: client.post(f"/generate/{model}", json={"seed": 8}))[:1]
    assert np.abs(pixels(other) - first).max() > 1


def test_a_job_is_everywhere(target: Target, model: str) -> None:
    job = begin(target, model, seed=7)
    for answer in everywhere(target, lambda client: client.get(path(job["urls"]["self"]))):
        assert (answer.status_code, answer.json()["id"]) == (200, job["id"])
    wait = {"Prefer": "wait=60"}
    results = everywhere(target, lambda client: client.get(path(job["urls"]["result"]), headers=wait))
    assert len({answer.content for answer in results}) == 1
    with target.client() as client:
        plain = client.post(f"/generate/{model}", json={"seed": 7})
    assert np.abs(pixels(results[0]) - pixels(plain)).max() <= 1
    for answer in everywhere(target, lambda client: client.get("/jobs")):
        assert job["id"] in {each["id"] for each in answer.json()["jobs"]}


def test_events_are_replayed_after_the_last_that_was_seen(target: Target, model: str) -> None:
    job = begin(target, model, n=3)
    url = path(job["urls"]["events"])
    with target.client() as client:
        told = events(client.get(url))
    assert told[-1][1] == "completed"
    assert [name for _, name in told].count("image") == 3
    seen = told[len(told) // 2][0]
    for answer in everywhere(target, lambda client: client.get(url, headers={"Last-Event-ID": str(seen)})):
        assert events(answer) == [each for each in told if each[0] > seen]


def test_a_key_is_answered_once(target: Target, model: str) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    answers = everywhere(target, lambda client: client.post(f"/generate/{model}", headers=headers))
    assert [answer.status_code for answer in answers] == [200] * EACH
    assert len({answer.content for answer in answers}) == 1
    assert ["idempotent-replayed" in answer.headers for answer in answers] == [False, *[True] * (EACH - 1)]
    with target.client() as client:
        other = client.post(f"/generate/{model}", json={"n": 2}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


def test_a_job_is_cancelled_from_anywhere(target: Target, model: str) -> None:
    jobs = begin_long(target, model)
    assert jobs
    for job in jobs:
        with target.client() as client:
            assert client.post(path(job["urls"]["cancel"])).json()["status"] == "canceled"
    for job in jobs:
        with target.client() as client:
            gone = no_longer_running(client, path(job["urls"]["result"]))
            assert (gone.status_code, gone.json()["code"]) == (410, "job-canceled")
            assert events(client.get(path(job["urls"]["events"])))[-1][1] == "error"


def test_a_rejection_says_when_to_ask_again(target: Target, model: str) -> None:
    jobs = begin_long(target, model)
    assert jobs
    try:
        for answer in everywhere(
            target, lambda client: client.post(f"/generate/{model}", json={"steps": 1000, "timeout_ms": 1})
        ):
            assert answer.status_code in (429, 503, 504), answer.text  # for its share, the queue or its deadline
            assert answer.status_code == 504 or int(answer.headers["retry-after"]) >= 1
    finally:
        for job in jobs:
            with target.client() as client:
                client.post(path(job["urls"]["cancel"]))


@pytest.mark.parametrize(("body", "status"), [({"n": 0}, 422), ({"steps": "many"}, 422), ({"unknown": 1}, 422)])
def test_bad_fields_are_named(target: Target, model: str, body: dict[str, object], status: int) -> None:
    with target.client() as client:
        answer = client.post(f"/generate/{model}", json=body)
    assert answer.status_code == status
    assert next(iter(body)) in answer.json()["detail"]


def test_a_replica_that_stops_costs_no_request(target: Target, model: str) -> None:
    if target.start is None:
        pytest.skip("needs replicas that the test may stop")
    done, statuses = threading.Event(), list[int]()

    def ask() -> None:
        while not done.is_set():
            with httpx2.Client(base_url=target.url, timeout=SECONDS) as client:
                statuses.append(client.post(f"/generate/{model}", json={"n": 2}).status_code)

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        try:
            stopped = target.replicas.pop(0)
            stop(stopped)
            assert stopped.process.wait(SECONDS) == 0
            target.replicas.append(target.start())
            before = len(statuses)
            give_up = time.monotonic() + SECONDS
            while len(statuses) < before + 20 and time.monotonic() < give_up:
                time.sleep(0.05)
        finally:
            done.set()
        for each in asking:
            each.result()
    assert len(statuses) >= 20
    assert set(statuses) == {200}


def test_a_service_that_stops_finishes_what_it_accepted(target: Target, model: str) -> None:
    if not target.replicas:
        pytest.skip("needs a service that the test may stop")
    with ThreadPoolExecutor(4) as threads:
        asked = [
            threads.submit(httpx2.post, f"{target.url}/generate/{model}", json={"n": 16, "steps": 100}, timeout=SECONDS)
            for _ in range(4)
        ]
        give_up = time.monotonic() + SECONDS
        while sum(service.sample("accepted_work_seconds") for service in target.replicas) == 0:
            assert time.monotonic() < give_up
            if all(each.done() for each in asked):
                break
        for service in target.replicas:
            stop(service)
        statuses = []
        for each in asked:
            try:
                statuses.append(each.result().status_code)
            except httpx2.ConnectError:  # came after the end
                continue
    assert 200 in statuses
    assert set(statuses) <= {200, 503}
    assert [service.process.wait(SECONDS) for service in target.replicas] == [0] * len(target.replicas)
