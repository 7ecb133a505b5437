import asyncio
import json
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.images import encode_png
from service.settings import Settings
from tests.service.api.conftest import (
    JSON,
    LONG,
    NPY,
    Answer,
    accepted,
    ask,
    base64_png,
    idle,
    load,
    problem,
    read_events,
    running,
    some_picture,
    to_body,
)
from tests.service.conftest import settings_of

ASYNC = {"Prefer": "respond-async"}
FIELDS = {"n": 3, "steps": 30, "seed": 5}


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in {"id", "created", "timings"}}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/generate/ddpm", FIELDS),
        ("/generate/vae", {"n": 2, "seed": 1, "scale": 2}),
        ("/interpolate", {"model": "ddpm", "from": {"seed": 1}, "to": {"seed": 2}, "frames": 4}),
        ("/interpolate", {"model": "vae", "from": {"seed": 1}, "to": {"seed": 2}, "frames": 4}),
    ],
)
def test_three_ways_to_the_same_pictures(client: TestClient, path: str, fields: dict[str, Any]) -> None:
    plain = client.post(path, json=fields, headers=JSON).json()
    told = read_events(client.post(path, json={**fields, "stream": True}).content)
    assert told[-1].name == "completed"
    assert without_times(told[-1].data) == without_times(plain)
    shown = {each.data["index"]: each.data for each in told if each.name == "image"}
    assert [shown[index] for index in sorted(shown)] == plain["images"]
    job = client.post(path, json=fields, headers={**JSON, **ASYNC}).json()
    waited = client.get(f"/jobs/{job['id']}/result", headers={"Prefer": "wait=30"})
    assert waited.status_code == 200
    assert without_times(waited.json()) == without_times(plain)
    assert waited.json()["id"] == job["id"]
    assert job["params"] == plain["params"]
    in_time = client.post(path, json=fields, headers={**JSON, "Prefer": "wait=30"})
    assert (in_time.status_code, in_time.headers["preference-applied"]) == (200, "wait=30")
    assert without_times(in_time.json()) == without_times(plain)


async def test_a_job_is_answered_at_once_with_its_url(settings: Settings) -> None:
    async with running(settings) as app:
        answer = await ask(app, "/generate/ddpm", to_body(LONG), headers=ASYNC)
        assert answer.status == 202
        job = json.loads(answer.body)
        assert answer.headers["location"] == f"/jobs/{job['id']}"
        assert answer.headers["preference-applied"] == "respond-async"
        assert answer.headers["cache-control"] == "no-store"
        assert job["status"] in ("queued", "running")
        assert job["eta_ms"] > 0
        assert (job["steps"], job["error"]) == (1000, None)
        assert job["urls"] == {
            "self": f"/jobs/{job['id']}",
            "result": f"/jobs/{job['id']}/result",
            "events": f"/jobs/{job['id']}/events",
            "cancel": f"/jobs/{job['id']}/cancel",
        }
        await ask(app, job["urls"]["cancel"])
        await idle(app)


async def test_what_is_not_done_in_time_is_a_job_and_not_an_empty_answer(settings: Settings) -> None:
    async with running(settings) as app:
        late = await ask(app, "/generate/ddpm", to_body({**LONG, "timeout_ms": 60_000}), headers={"Prefer": "wait=1"})
        assert late.status == 202
        assert late.headers["preference-applied"] == "wait=1"
        job = json.loads(late.body)
        assert 0 < job["progress"] < 1
        assert job["step"] == int(1000 * job["progress"])
        await ask(app, job["urls"]["cancel"])


@pytest.mark.parametrize(
    "headers", [{}, {"Prefer": "wait=600"}, {"Accept": "text/event-stream"}, {"Idempotency-Key": "a"}]
)
async def test_a_disconnect_stops_the_work(settings: Settings, headers: dict[str, str]) -> None:
    async with running(settings) as app:
        leaves = asyncio.Event()
        request = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG), headers=headers, leaves=leaves))
        await accepted(app)
        leaves.set()
        await request
        await idle(app)
        jobs = json.loads((await ask(app, "/jobs", method="GET")).body)["jobs"]
        assert {job["status"] for job in jobs} <= {"canceled"}


async def test_a_job_survives_its_sender(settings: Settings) -> None:
    async with running(settings) as app:
        leaves = asyncio.Event()
        leaves.set()
        headers = {**NPY, **ASYNC}
        answer = await ask(app, "/generate/ddpm", to_body(FIELDS), headers=headers, leaves=leaves)
        path = json.loads(answer.body)["urls"]["result"]
        result = await ask(app, path, method="GET", headers={"Prefer": "wait=60"})
        assert result.status == 200
        assert load(result.body).shape == (3, 8, 8, 1)


def test_an_error_is_the_same_in_any_way(client: TestClient) -> None:
    for headers in ({}, ASYNC, {"Accept": "text/event-stream"}, {"Prefer": "wait=1"}, {"Idempotency-Key": "bad"}):
        problem(client.post("/generate/nope", headers=headers), 404, "unknown-model")
        problem(client.post("/generate/ddpm", json={"n": 0}, headers=headers), 422, "invalid-field")
        problem(client.post("/generate/vae", json={"preview_every": 1}, headers=headers), 422, "invalid-field")


async def test_there_are_only_so_many_jobs(weights: Any) -> None:
    async with running(settings_of(weights, max_jobs=2, client_share=1)) as app:
        jobs = [await ask(app, "/generate/ddpm", to_body({**LONG, "n": 1}), headers=ASYNC) for _ in range(2)]
        full = await ask(app, "/generate/vae", headers=ASYNC)
        assert full.status == 503
        assert full.headers["retry-after"] in {"1", "2"}
        assert json.loads(full.body)["code"] == "jobs-full"
        assert (await ask(app, "/generate/vae")).status == 200
        await ask(app, json.loads(jobs[0].body)["urls"]["cancel"])
        assert (await ask(app, "/generate/vae", headers=ASYNC)).status == 202
        await ask(app, json.loads(jobs[1].body)["urls"]["cancel"])


async def test_a_rejected_job_is_not_recorded(weights: Any) -> None:
    # However slow the machine, and so however dear a request: room for many, and one is more than a client's share.
    async with running(settings_of(weights, client_share=1e-6)) as app:
        first = json.loads((await ask(app, "/generate/ddpm", to_body(LONG), headers=ASYNC)).body)
        for headers in (ASYNC, {"Accept": "text/event-stream"}):
            refused = await ask(app, "/generate/ddpm", to_body(LONG), headers=headers)
            assert (refused.status, json.loads(refused.body)["code"]) == (429, "share-exceeded")
        jobs = json.loads((await ask(app, "/jobs", method="GET")).body)["jobs"]
        assert [job["id"] for job in jobs] == [first["id"]]
        await ask(app, first["urls"]["cancel"])


class TestKeys:
    def send(self, client: TestClient, key: str, fields: dict[str, Any], **headers: str) -> Any:
        return client.post("/generate/ddpm", json=fields, headers={"Idempotency-Key": key, **headers})

    @pytest.mark.parametrize(("prefer", "status"), [("", 200), ("respond-async", 202), ("wait=30", 200)])
    def test_the_same_again_is_answered_as_before(self, client: TestClient, prefer: str, status: int) -> None:
        first, again = (self.send(client, f"same {prefer}".replace(" ", "-"), {"n": 2}, Prefer=prefer) for _ in "12")
        assert first.status_code == again.status_code == status
        assert first.content == again.content  # with seeds that were drawn
        told = {**again.headers}
        assert told.pop("idempotent-replayed") == "true"
        ids = {told.pop("x-request-id"), first.headers["x-request-id"]}
        assert len(ids) == 2
        assert told == {name: text for name, text in first.headers.items() if name != "x-request-id"}

    def test_what_was_computed_once_is_not_again(self, client: TestClient) -> None:
        key = {"Idempotency-Key": "once", **NPY}
        first = client.post("/generate/ddpm", json=FIELDS, headers=key)
        # The same fields in other words.
        again = client.post("/generate/ddpm", content=b'{"seed":5, "steps":30,"n" : 3, "scale": 1}', headers=key)
        assert again.headers["idempotent-replayed"] == "true"
        assert np.array_equal(load(first.content), load(again.content))

    @pytest.mark.parametrize(
        ("path", "fields", "headers"),
        [
            ("/generate/ddpm", {"seed": 2}, {}),
            ("/generate/vae", {"seed": 1}, {}),
            ("/generate/ddpm", {"seed": 1}, JSON),
            ("/generate/ddpm", {"seed": 1}, ASYNC),
        ],
    )
    def test_another_request_needs_another_key(
        self, client: TestClient, path: str, fields: dict[str, Any], headers: dict[str, str]
    ) -> None:
        assert self.send(client, "other", {"seed": 1}).status_code == 200
        response = client.post(path, json=fields, headers={"Idempotency-Key": "other", **headers})
        problem(response, 422, "idempotency-key-reused")

    def test_uploads_are_compared_by_every_byte_however_they_are_sent(self, client: TestClient) -> None:
        picture, other = some_picture(), some_picture()
        other[-1, -1] ^= 1
        fields = {"seed": 1, "steps": 2, "image": base64_png(picture)}
        first = self.send(client, "picture", fields)
        assert first.status_code == 200
        for again in (fields, {**fields, "image": "data:image/png;base64," + base64_png(picture)}):
            assert self.send(client, "picture", again).headers["idempotent-replayed"] == "true"
        key, text = {"Idempotency-Key": "picture"}, {"seed": "1", "steps": "2"}
        form = client.post("/generate/ddpm", data=text, files={"image": encode_png(picture)}, headers=key)
        assert form.headers["idempotent-replayed"] == "true"
        changed = self.send(client, "picture", {**fields, "image": base64_png(other)})
        problem(changed, 422, "idempotency-key-reused")

    def test_a_rejected_request_may_be_sent_again(self, client: TestClient) -> None:
        problem(self.send(client, "refused", {"steps": 1000, "n": 64, "timeout_ms": 1}), 504, "deadline-exceeded")
        assert self.send(client, "refused", {"steps": 2}).status_code == 200

    async def test_while_it_is_answered_it_is_not_answered_twice(self, settings: Settings) -> None:
        async def send(app: FastAPI, client: str = "127.0.0.1") -> Answer:
            headers = {"Idempotency-Key": "busy"}
            return await ask(app, "/generate/ddpm", to_body({"n": 8, "steps": 500}), headers=headers, client=client)

        async with running(settings) as app:
            first = asyncio.create_task(send(app))
            await accepted(app)
            second = await send(app)
            assert (second.status, second.headers["retry-after"]) == (409, "1")
            assert json.loads(second.body)["code"] == "idempotency-key-in-use"
            other = asyncio.create_task(send(app, client="127.0.0.2"))
            assert (await first).status == (await other).status == 200
            assert (await first).body != (await other).body
            assert (await send(app)).body == (await first).body
