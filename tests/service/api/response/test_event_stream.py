import asyncio
import base64
import json
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from service.api.response import event_stream
from service.settings import Settings
from tests.service.api.conftest import (
    LONG,
    accepted,
    ask,
    decode,
    idle,
    problem,
    read_events,
    running,
    to_body,
)

FIELDS = {"n": 2, "steps": 40, "seed": 5, "scale": 2}
ASYNC = {"Prefer": "respond-async"}


@pytest.mark.parametrize("method", ["POST", "GET", "Accept"])
def test_what_happens_in_the_order_in_which_it_does(client: TestClient, method: str) -> None:
    if method == "GET":
        response = client.get("/generate/ddpm", params={**FIELDS, "stream": "true"})
    elif method == "POST":
        response = client.post("/generate/ddpm", json={**FIELDS, "stream": True})
    else:
        response = client.post("/generate/ddpm", json=FIELDS, headers={"Accept": "text/event-stream"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-seed"] == "5, 6"
    assert response.headers["x-model"] == "ddpm"
    assert response.headers["x-request-id"]
    assert "content-length" not in response.headers
    told = read_events(response.content)
    assert [event.id for event in told] == list(range(1, len(told) + 1))
    names = [event.name for event in told]
    assert names[names.index("started") - 1] == "queued"
    assert names[-3:] == ["image", "image", "completed"]
    ids = {event.data["id"] for event in told if event.name in ("queued", "started", "completed")}
    assert len(ids) == 1
    for index in (0, 1):
        previews = [event.data for event in told if event.name == "preview" and event.data["index"] == index]
        assert [preview["step"] for preview in previews] == list(range(0, 40, 4))
        assert [preview["t"] for preview in previews] == sorted((each["t"] for each in previews), reverse=True)
        for preview in previews:
            assert (preview["kind"], preview["steps"], preview["mime"]) == ("x0", 40, "image/png")
            assert decode(base64.b64decode(preview["b64_json"])).shape == (16, 16, 1)
        assert len({preview["b64_json"] for preview in previews}) > 5


def test_the_first_previews_are_noise_and_the_last_ones_the_picture(client: TestClient) -> None:
    told = read_events(client.post("/generate/ddpm", json={**FIELDS, "stream": True, "preview_every": 1}).content)
    image = next(event.data for event in told if event.name == "image" and event.data["index"] == 0)
    final = decode(base64.b64decode(image["b64_json"])).astype(int)
    shown = [
        decode(base64.b64decode(event.data["b64_json"])).astype(int)
        for event in told
        if event.name == "preview" and event.data["index"] == 0
    ]
    distances = [abs(picture - final).mean() for picture in shown]
    assert distances[0] > 5 * distances[-1]


def test_no_preview_where_none_is_wanted_or_possible(client: TestClient) -> None:
    for model, fields in (("ddpm", {"preview_every": 0}), ("vae", {})):
        told = read_events(client.post(f"/generate/{model}", json={**fields, "stream": True}).content)
        assert {event.name for event in told} <= {"queued", "started", "image", "completed"}


def test_the_events_of_a_job_are_replayed_from_any_id(client: TestClient) -> None:
    job = client.post("/generate/ddpm", json={**FIELDS, "preview_every": 8}, headers=ASYNC).json()
    told = read_events(client.get(job["urls"]["events"]).content)
    assert read_events(client.get(job["urls"]["events"]).content) == told
    for seen in (0, 3, told[-2].id):
        rest = client.get(job["urls"]["events"], headers={"Last-Event-ID": str(seen)})
        assert read_events(rest.content) == [event for event in told if event.id > seen]
    for seen in (told[-1].id, 10_000):
        over = client.get(job["urls"]["events"], headers={"Last-Event-ID": str(seen)})
        assert (over.status_code, over.content) == (204, b"")
    fresh = client.get(job["urls"]["events"], headers={"Last-Event-ID": ""})
    assert read_events(fresh.content) == told
    for bad in ("x", "-1", "1.5", "9" * 20):
        problem(client.get(job["urls"]["events"], headers={"Last-Event-ID": bad}), 400, "bad-request")


def test_a_stream_is_not_computed_again_on_reconnect(client: TestClient) -> None:
    again = client.get("/generate/ddpm", params={"stream": "true"}, headers={"Last-Event-ID": "9"})
    assert (again.status_code, again.content) == (204, b"")


def test_an_empty_last_event_id_is_none(client: TestClient) -> None:
    first = client.get("/generate/ddpm", params={"stream": "true"}, headers={"Last-Event-ID": ""})
    assert read_events(first.content)[-1].name == "completed"


def test_head_computes_nothing(client: TestClient) -> None:
    response = client.head("/generate/ddpm", params={"stream": "true", "n": 64, "steps": 1000})
    assert (response.status_code, response.content) == (200, b"")
    newest = client.get("/jobs").json()["jobs"][0]
    assert newest["status"] == "canceled"


async def test_silence_is_broken_by_comments(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PROGRESS_S", 0.01)
    monkeypatch.setattr(event_stream, "COMMENT_S", 0.05)

    async with running(settings) as app:
        leaves = asyncio.Event()
        body = to_body({**LONG, "preview_every": 0, "stream": True})
        listening = asyncio.create_task(ask(app, "/generate/ddpm", body, leaves=leaves))
        await asyncio.sleep(0.5)
        leaves.set()
        answer = await listening
        assert answer.body.count(b":\n\n") >= 2
        told = read_events(answer.body)
        assert [event.name for event in told][-1] == "started"


async def test_a_slow_reader_delays_no_other(settings: Settings) -> None:
    async with running(settings) as app:
        body = to_body({"n": 4, "steps": 200, "preview_every": 1})
        job: dict[str, Any] = json.loads((await ask(app, "/generate/ddpm", body, headers=ASYNC)).body)
        reads = asyncio.Event()
        sent: list[bytes] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                await reads.wait()
                sent.append(message.get("body", b""))

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        scope = {
            "type": "http",
            "method": "GET",
            "path": job["urls"]["events"],
            "raw_path": b"",
            "query_string": b"",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "scheme": "http",
            "root_path": "",
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        slow = asyncio.create_task(app(scope, receive, send))
        quick = read_events((await ask(app, job["urls"]["events"], method="GET")).body)
        assert quick[-1].name == "completed"
        reads.set()
        await slow
        told = read_events(b"".join(sent))
        # It has missed previews, and nothing else.
        assert sum(event.name == "preview" for event in told) <= 129
        lasting = [event for event in quick if event.name != "preview" and event.name != "queued"]
        assert [event for event in told if event.name not in ("preview", "queued")] == lasting


async def test_changes_of_the_queue_position_are_events(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PROGRESS_S", 0.005)
    monkeypatch.setattr("service.engine.progress.REFRESH_S", 0.0)
    few = settings.model_copy(update={"table_rows": 8, "engine_threads": 1})

    async with running(few) as app:
        await ask(app, "/generate/ddpm", to_body({"n": 16, "steps": 300}), headers=ASYNC)
        await accepted(app)
        await ask(app, "/generate/ddpm", to_body({"n": 4, "steps": 2}), headers=ASYNC)
        answer = await ask(app, "/generate/ddpm", to_body({"steps": 2, "stream": True}))
        told = read_events(answer.body)
        places = [event.data["queue_position"] for event in told if event.name == "queued"]
        assert places[0] > 0
        assert places == sorted(places, reverse=True)
        assert all(event.data["eta_ms"] > 0 for event in told if event.name == "queued")
        assert told[-1].name == "completed"
        await idle(app)
