"""From an order to its answer: the order of the steps, idempotency, and one deadline for all of them."""

import asyncio
import base64
import json

import pytest

from service.api.response.execution import Deadline, deadline_of
from service.errors import DeadlineExceeded
from service.settings import Settings
from tests.service.api.conftest import JSON, ask, base64_png, read_series, running, some_picture, to_body, value
from tests.service.api.runs import (
    ASYNC,
    IMAGE,
    STREAM,
    UPLOADS,
    Decoding,
    blocked,
    computed_rows,
    each_kind,
    ended,
    nothing_is_held,
    rows_wait,
    status_of,
    until,
)
from tests.service.clock import Clock


@pytest.fixture
def settings(all_tasks: Settings) -> Settings:
    return all_tasks


@each_kind
async def test_a_job_is_answered_before_anything_is_decoded_or_computed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, fields = UPLOADS[kind]

    decoding = Decoding(monkeypatch)
    async with running(settings) as app:
        with blocked(app):
            answer = await ask(app, path, to_body(fields), headers=ASYNC)
            assert answer.status == 202
            assert decoding.begun == 0
            job = json.loads(answer.body)
            assert (job["status"], job["progress"]) == ("queued", 0)
            decoding.goes_on.set()
            assert (await status_of(app, job["id"]))["status"] == "queued"
        assert (await ended(app, job["id"]))["status"] == "succeeded"
        assert nothing_is_held(app)


@each_kind
async def test_a_request_that_is_sent_again_is_computed_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, fields = UPLOADS[kind]
    headers = {"Idempotency-Key": "once", **JSON}

    decoding, rows = Decoding(monkeypatch), list[float]()
    async with running(settings) as app:
        async with computed_rows(app, rows):
            first = asyncio.create_task(ask(app, path, to_body(fields), headers=headers))
            await until(lambda: decoding.begun)
            for _ in range(3):
                during = await ask(app, path, to_body(fields), headers=headers)
                assert (during.status, json.loads(during.body)["code"]) == (409, "idempotency-key-in-use")
            decoding.goes_on.set()
            answer = await first
            assert answer.status == 200
            decoded = decoding.begun
        async with computed_rows(app, rows):
            for _ in range(3):
                after = await ask(app, path, to_body(fields), headers=headers)
                assert (after.status, after.body) == (200, answer.body)
                assert after.headers["idempotent-replayed"] == "true"
        assert decoding.begun == decoded
        assert rows[0] > 0
        assert rows[1] == 0


@each_kind
async def test_another_picture_under_the_same_key_is_another_request(settings: Settings, kind: str) -> None:
    path, fields = UPLOADS[kind]
    other = json.loads(json.dumps(fields).replace(IMAGE, base64_png(some_picture(1))))

    async with running(settings) as app:
        headers = {"Idempotency-Key": "one"}
        assert (await ask(app, path, to_body(fields), headers=headers)).status == 200
        answer = await ask(app, path, to_body(other), headers=headers)
        assert (answer.status, json.loads(answer.body)["code"]) == (422, "idempotency-key-reused")


@each_kind
@pytest.mark.parametrize("headers", [{}, ASYNC])
async def test_one_time_is_for_all_of_the_work(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str, headers: dict[str, str]
) -> None:
    """What takes too long before the pictures is late, as a job too."""
    path, fields = UPLOADS[kind]

    Decoding(monkeypatch)  # which does not go on
    async with running(settings) as app:
        answer = await ask(app, path, to_body({**fields, "timeout_ms": 150}), headers=headers)
        if headers == ASYNC:
            assert answer.status == 202
            error = (await ended(app, json.loads(answer.body)["id"]))["error"]
        else:
            error = json.loads(answer.body)
        assert error["code"] == "deadline-exceeded"
        assert "0.15 s" in error["detail"]
        assert nothing_is_held(app)


def test_the_deadline_counts_from_the_arrival_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("service.api.response.execution.time", clock)
    assert deadline_of(5.0, None, 60.0) == Deadline(60.0, 65.0)
    deadline = deadline_of(5.0, 1000, 60.0)
    clock.now = 5.75
    assert deadline.left_s() == 0.25
    assert deadline_of(5.0, 1000, 600.0) == deadline
    clock.now = 6.0
    with pytest.raises(DeadlineExceeded, match=r"within 1 s"):
        deadline.left_s()
    assert deadline_of(5.0, 90_000, 60.0) == Deadline(60.0, 65.0)


@each_kind
@pytest.mark.parametrize("where", ["decoding", "computing"])
@pytest.mark.parametrize("headers", [{"Idempotency-Key": "a"}, STREAM])
async def test_a_disconnect_gives_back_all_that_was_reserved(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str, where: str, headers: dict[str, str]
) -> None:
    path, fields = UPLOADS[kind]

    decoding = Decoding(monkeypatch)
    async with running(settings) as app:
        with blocked(app):
            leaves = asyncio.Event()
            request = asyncio.create_task(ask(app, path, to_body(fields), headers=headers, leaves=leaves))
            await until(lambda: decoding.begun)
            assert not nothing_is_held(app)
            if where == "computing":
                decoding.goes_on.set()
                await until(lambda: rows_wait(app))
            leaves.set()
            await request
            await until(lambda: nothing_is_held(app))
        decoding.goes_on.set()
        assert (await ask(app, path, to_body(fields), headers={"Idempotency-Key": "a"})).status == 200
        samples = read_series((await ask(app, "/metrics", method="GET")).body.decode())
        model = path.split("/")[2] if path != "/interpolate" else fields["model"]
        assert value(samples, "cancelled_total", model=model, reason="client-left") == 1


@each_kind
async def test_a_canceled_job_gives_back_all_that_was_reserved(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, fields = UPLOADS[kind]

    decoding = Decoding(monkeypatch)
    async with running(settings) as app:
        job = json.loads((await ask(app, path, to_body(fields), headers=ASYNC)).body)
        await until(lambda: decoding.begun)
        await ask(app, job["urls"]["cancel"])
        await until(lambda: nothing_is_held(app))
        assert (await status_of(app, job["id"]))["status"] == "canceled"


@each_kind
async def test_an_upload_that_is_no_picture_is_rejected_or_fails_its_job(settings: Settings, kind: str) -> None:
    path, fields = UPLOADS[kind]
    bad = json.loads(json.dumps(fields).replace(IMAGE, base64.b64encode(b"GIF89a, or so").decode()))

    async with running(settings) as app:
        plain = await ask(app, path, to_body(bad))
        assert (plain.status, json.loads(plain.body)["code"]) == (415, "unsupported-image")
        answer = await ask(app, path, to_body(bad), headers=ASYNC)
        assert answer.status == 202
        job = await ended(app, json.loads(answer.body)["id"])
        assert (job["status"], job["error"]["code"]) == ("failed", "unsupported-image")
        assert job["error"]["errors"][0]["pointer"].startswith("#/")
        # Errors of the fields are reported before the 202.
        wrong = await ask(app, path, to_body({**fields, "scale": 0}), headers=ASYNC)
        assert wrong.status == 422
        assert nothing_is_held(app)
