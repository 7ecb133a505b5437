import asyncio
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message

from service.api.request.body import INLINE_BYTES, off_loop, read_body
from service.api.request.schemas import GenerateRequest
from service.decoding.pool import readers_of
from service.errors import BodyTooLarge, BodyTooSlow, MemoryFull
from service.images import encode_png
from service.request_info import KEY, RequestInfo
from service.settings import Settings
from tests.service.api.conftest import ask, problem, refused, running, some_picture
from tests.service.conftest import settings_of

GENERATE_FIELDS = (
    "class_label, control, control_end, control_image, control_scale, control_start, eta, format, fps, guidance_scale, "
    "height, image, latents, layout, lora, mask, mask_invert, metadata, n, negative_class, negative_prompt, point, "
    "preview_every, preview_kind, prompt, quality, scale, seed, seeds, solver, spread, steps, stream, strength, "
    "timeout_ms, truncation, version, width"
)
LIMIT = Settings.model_fields["max_body_bytes"].default


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ('{"colour": "red"}', "#/colour", f"no such field {GENERATE_FIELDS}"),
        ('{"Seed": 1}', "#/Seed", "no such field (did you mean seed?)"),
        ('{"class": 7}', "#/class", "no such field (did you mean class_label?)"),
        ('{"cfg_scale": 7}', "#/cfg_scale", "(did you mean guidance_scale?)"),
        ('{"promt": "a fox"}', "#/promt", "(did you mean prompt?)"),
        ('{"model": "vae"}', "#/model", "no such field"),
        ("[]", "#", "object"),
        ("null", "#", "object"),
        ("3", "#", "object"),
        ('"seed"', "#", "object"),
        ('{"n": true}', "#/n", "valid integer"),
        ('{"n": "3"}', "#/n", "valid integer"),
        ('{"n": 1.5}', "#/n", "valid integer"),
        ('{"n": 1.0}', "#/n", "valid integer"),
        ('{"n": [1]}', "#/n", "valid integer"),
        ('{"n": 0}', "#/n", "greater than or equal to 1"),
        ('{"n": -1}', "#/n", "greater than or equal to 1"),
        ('{"seed": 1e3}', "#/seed", "valid integer"),
        ('{"seed": -1}', "#/seed", "greater than or equal to 0"),
        ('{"seed": 4294967296}', "#/seed", "less than 4294967296"),
        ('{"seed": 1e400}', "#/seed", "valid integer"),
        ('{"seed": {"value": 1}}', "#/seed", "valid integer"),
        ('{"steps": 0}', "#/steps", "greater than or equal to 1"),
        ('{"steps": false}', "#/steps", "valid integer"),
        ('{"scale": 0}', "#/scale", "greater than or equal to 1"),
        ('{"scale": 33}', "#/scale", "less than or equal to 32"),
        ('{"guidance_scale": NaN}', "#/guidance_scale", "finite number"),
        ('{"guidance_scale": Infinity}', "#/guidance_scale", "finite number"),
        ('{"guidance_scale": "2"}', "#/guidance_scale", "valid number"),
        ('{"guidance_scale": true}', "#/guidance_scale", "valid number"),
        ('{"guidance_scale": -0.1}', "#/guidance_scale", "greater than or equal to 0"),
        ('{"guidance_scale": 20.5}', "#/guidance_scale", "less than or equal to 20"),
        ('{"solver": "euler"}', "#/solver", "'ddpm', 'ddim', 'dpmpp_2m'"),
        ('{"solver": 1}', "#/solver", "'ddpm', 'ddim', 'dpmpp_2m'"),
        ('{"class_label": 1.5}', "#/class_label", "valid integer, or input should be a valid string"),
        ('{"class_label": true}', "#/class_label", "valid integer, or input should be a valid string"),
        ('{"class_label": [1.5]}', "#/class_label", "valid integer"),
        ('{"class_label": [null]}', "#/class_label", "valid integer"),
        ('{"seeds": 1}', "#/seeds", "valid array"),
        ('{"seeds": []}', "#/seeds", "at least 1 item"),
        ('{"seeds": [1, -1]}', "#/seeds", "greater than or equal to 0"),
        ('{"seeds": [4294967296]}', "#/seeds", "less than 4294967296"),
        ('{"seeds": ["1"]}', "#/seeds", "valid integer"),
        ('{"format": "bmp"}', "#/format", "'png', 'webp', 'jpeg', 'gif', 'npy', 'zip' or 'json'"),
        ('{"layout": "circle"}', "#/layout", "'auto', 'grid', 'strip', 'sprite', 'list' or 'film'"),
        ('{"quality": 0}', "#/quality", "greater than or equal to 1"),
        ('{"quality": 101}', "#/quality", "less than or equal to 100"),
        ('{"version": 1}', "#/version", "valid string"),
        ('{"metadata": {"a": 1}}', "#/metadata", "valid string"),
        (json.dumps({"metadata": {str(i): "" for i in range(17)}}), "#/metadata", "at most 16 items"),
        (json.dumps({"metadata": {"a": "x" * 513}}), "#/metadata", "at most 512 characters"),
        (json.dumps({"class_label": "x" * 65}), "#/class_label", "at most 64 characters"),
        ('{"timeout_ms": 0}', "#/timeout_ms", "greater than or equal to 1"),
        ('{"timeout_ms": -1}', "#/timeout_ms", "greater than or equal to 1"),
        ('{"timeout_ms": 1.5}', "#/timeout_ms", "valid integer"),
        ('{"timeout_ms": "5"}', "#/timeout_ms", "valid integer"),
        ('{"timeout_ms": true}', "#/timeout_ms", "valid integer"),
        ('{"timeout_ms": 3600001}', "#/timeout_ms", "less than or equal to 3600000"),
        ('{"timeout_ms": 1e400}', "#/timeout_ms", "valid integer"),
    ],
)
def test_a_field_that_the_form_does_not_allow(client: TestClient, body: str, pointer: str, said: str) -> None:
    assert said in refused(client.post("/generate/ddpm", content=body), pointer)


@pytest.mark.parametrize(
    ("query", "pointer", "said"),
    [
        ("n=1&n=2", "#/n", "more than once"),
        ("seed=1&scale=2&seed=1", "#/seed", "more than once"),
        ("colour=red", "#/colour", f"no such field {GENERATE_FIELDS}"),
        ("colour=", "#/colour", "no such field"),
        ("n=+", "#/n", "valid integer"),
        ("n=three", "#/n", "valid integer"),
        ("n=1.5", "#/n", "valid integer"),
        ("n=0", "#/n", "greater than or equal to 1"),
        ("seed=4294967296", "#/seed", "less than 4294967296"),
        ("guidance_scale=nan", "#/guidance_scale", "finite number"),
        ("guidance_scale=inf", "#/guidance_scale", "finite number"),
        ("solver=euler", "#/solver", "'ddpm', 'ddim', 'dpmpp_2m'"),
        ("timeout_ms=0", "#/timeout_ms", "greater than or equal to 1"),
        ("timeout_ms=1.5", "#/timeout_ms", "valid integer"),
        ("timeout_ms=3600001", "#/timeout_ms", "less than or equal to 3600000"),
        ("%00=1", "#/\x00", "no such field"),
        ("%ff=1", "#/\ufffd", "no such field"),
        ("a/b~=1", "#/a~1b~0", "no such field"),
        ("a/b=1&a/b=1", "#/a~1b", "more than once"),
    ],
)
def test_a_query_that_the_form_does_not_allow(client: TestClient, query: str, pointer: str, said: str) -> None:
    assert said in refused(client.get(f"/generate/ddpm?{query}"), pointer)


def test_every_wrong_field_is_named(client: TestClient) -> None:
    response = client.post("/generate/ddpm", json={"n": 0, "seed": "x", "scale": 99})
    errors = problem(response, 422, "invalid-field")["errors"]
    assert {error["pointer"] for error in errors} == {"#/n", "#/seed", "#/scale"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"}",
        b'{"n": 1',
        b'{"n": 1,}',
        b"{'n': 1}",
        b"n=1&seed=2",
        b"<n>1</n>",
        b'{"n": 1} {"n": 2}',
        b'{"seed": 1__0}',
        b'{"class_label": "\xff\xfe"}',
        b'{"class_label": "\xed\xa0\x80"}',
        b"\x00\x00",
        b"[" * 50_000,
        b'{"a":' * 4_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_not_json(client: TestClient, body: bytes) -> None:
    document = problem(client.post("/generate/vae", content=body), 400, "bad-request")
    assert document["errors"] == []
    assert "not JSON" in document["detail"]


def test_a_body_of_the_most_bytes_is_read_and_more_is_not(client: TestClient) -> None:
    fitting = b'{"n": 1}'.ljust(LIMIT)
    assert client.post("/generate/vae", content=fitting).status_code == 200
    document = problem(client.post("/generate/vae", content=fitting + b"  "), 413, "body-too-large")
    assert str(LIMIT) in document["detail"]


@pytest.mark.parametrize("path", ["/generate/vae", "/interpolate"])
def test_a_body_without_a_length_is_bounded_too(client: TestClient, path: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b" " * 1000] * (LIMIT // 1000 + 1)

    problem(client.post(path, content=chunks()), 413, "body-too-large")


def test_an_endless_body_is_not_read_beyond_the_limit(settings: Settings) -> None:
    read = 0

    async def endless() -> Message:
        nonlocal read
        read += 1000
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    async def scenario() -> None:
        async with running(settings.model_copy(update={"max_image_bytes": 3000})) as app:
            answer = await ask(app, "/generate/vae", receive=endless)
            assert answer.status == 413

    asyncio.run(scenario())
    assert read <= settings.max_body_bytes + 3 * 4004 + 1000


def test_an_error_is_small_for_a_large_request(client: TestClient) -> None:
    many = {f"field-{number}": 1 for number in range(3000)}
    response = client.post("/generate/vae", json=many)
    assert len(problem(response, 422, "invalid-field")["errors"]) == 10
    long = client.post("/generate/vae", json={"x" * 60_000: 1})
    assert refused(long, "#/" + "x" * 80)
    query = client.get("/generate/vae", params=[("y" * 10_000, "1")] * 2)
    assert refused(query, "#/" + "y" * 80)
    assert max(len(response.content), len(long.content), len(query.content)) < 10_000


@pytest.mark.parametrize("field", ["seeds", "class_label"])
def test_a_list_is_read_up_to_what_is_wrong(field: str) -> None:
    """A complaint for each of many thousand would hold up every other request."""
    with pytest.raises(ValidationError) as failure:
        GenerateRequest.model_validate({field: [[]] * 10_000})
    assert failure.value.error_count() <= 4


def test_markup_in_a_name_stays_text(client: TestClient) -> None:
    response = client.post("/generate/vae", json={"<script>alert(1)</script>": 1})
    assert refused(response, "#/<script>alert(1)<~1script>")
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("limit", [1, 100])
async def test_the_bound_is_the_settings(weights: Path, limit: int) -> None:
    async with running(settings_of(weights, max_body_bytes=limit)) as app:
        assert (await ask(app, "/generate/vae", b" " * limit)).status == 200
        assert (await ask(app, "/generate/vae", b" " * (limit + 1))).status == 413


def test_a_complete_body_is_read_without_waiting(settings: Settings) -> None:
    """What the server has received is in ``RequestInfo``; a body that is still coming is awaited as before."""
    bound = settings.model_copy(update={"max_body_bytes": 4})

    def read(received: bytes | None) -> bytes:
        async def receive() -> Message:
            return {"type": "http.request", "body": b"sent", "more_body": False}

        scope = {
            "type": "http",
            "method": "POST",
            "headers": [],
            "state": {KEY: RequestInfo(body=None if received is None else bytearray(received))},
        }
        return asyncio.run(read_body(Request(scope, receive), bound))

    assert read(b"") == b""
    assert read(b"here") == b"here"
    assert read(None) == b"sent"
    with pytest.raises(BodyTooLarge):
        read(b"there")


def test_a_body_that_never_arrives_times_out(settings: Settings) -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("never sent")

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    impatient = settings.model_copy(update={"body_timeout_s": 0.01})
    with pytest.raises(BodyTooSlow, match=r"0\.01 s"):
        asyncio.run(read_body(request, impatient))


@pytest.mark.parametrize(
    "work", [b'{"seed": 1}', b'{"seed": 1}'.ljust(INLINE_BYTES), b'{"seed": 1}'.ljust(INLINE_BYTES + 1)]
)
async def test_large_bodies_are_parsed_off_the_event_loop(settings: Settings, work: bytes) -> None:
    thread = await off_loop(settings, work, threading.get_ident)
    assert (thread == threading.get_ident()) == (len(work) <= INLINE_BYTES)


async def test_beyond_the_readers_queue_uploads_are_refused_and_nothing_else(settings: Settings) -> None:
    few = settings.model_copy(update={"decoders": 1, "decode_queue": 0})
    release, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert release.wait(30)

    async with running(few) as app:
        holding = asyncio.create_task(readers_of(few).run(hold))
        await asyncio.to_thread(begun.wait, 30)
        large = b'{"image": "' + b"A" * 100_000 + b'"}'
        for body in (encode_png(some_picture()), large):
            refusal = await ask(app, "/generate/ddpm", body)
            assert (refusal.status, json.loads(refusal.body)["code"]) == (503, "too-busy")
            assert refusal.headers["retry-after"] in {"1", "2"}
        assert (await ask(app, "/generate/ddpm", b'{"n": 1}')).status == 200
        release.set()
        await holding
        assert (await ask(app, "/generate/ddpm", encode_png(some_picture()))).status == 200


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_an_unsupported_picture_format_is_named(client: TestClient, kind: str) -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8), 200).convert("RGB").save(file, kind)
    document = problem(client.post("/generate/ddpm", content=file.getvalue()), 415, "unsupported-image")
    assert document["errors"][0]["pointer"] == "#/image"


def test_a_picture_in_a_request_without_uploads_is_rejected(client: TestClient) -> None:
    png = client.post("/generate/vae").content
    for response in (
        client.post("/interpolate", params={"model": "vae"}, content=png),
        client.post("/interpolate", data={"model": "vae"}, files={"image": png}),
        client.post("/interpolate", json={"model": "vae", "image": "aGVsbG8="}),
    ):
        assert "no such field" in refused(response, "#/image")


def test_only_uploads_may_be_large(client: TestClient) -> None:
    """A body beyond the bound on bodies has strings to thank for it, and not more than could be uploads."""
    half = "A" * (LIMIT // 2)
    fitting = {"model": "vae", "points": [{"seed": 1, "latents": half}] * 8}
    assert client.post("/interpolate", json=fitting).status_code == 422
    for body in ({"seeds": [1] * LIMIT}, {f"x{number}": half for number in range(20)}):
        problem(client.post("/generate/vae", json=body), 413, "body-too-large")
    problem(client.post("/generate/vae", content=b'{"' + b'"' * 2 * LIMIT), 413, "body-too-large")


def test_a_point_of_a_list_is_named(client: TestClient) -> None:
    body = {"model": "vae", "points": [{"seed": 1}, {"sed": 1}]}
    says = refused(client.post("/interpolate", json=body), "#/points/1/sed")
    assert "class_label, image, latents, prompt, seed" in says


@given(
    head=st.sampled_from([b"", b"{", b"--b\r\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b'{"image": "', b"--b--"]),
    tail=st.binary(max_size=300),
)
def test_any_bytes_get_an_answer_and_never_a_fault(client: TestClient, head: bytes, tail: bytes) -> None:
    for path in ("/generate/vae", "/interpolate", "/inspect"):
        assert client.post(path, content=head + tail).status_code in (200, 400, 413, 415, 422)


@pytest.mark.parametrize(
    "body", [b'{"seed": 1}', b" {}", b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n1\r\n--x--']
)
def test_a_query_beside_a_body_is_rejected(client: TestClient, body: bytes) -> None:
    told = problem(client.post("/generate/vae?n=4&seed=7", content=body), 422, "invalid-field")
    assert told["errors"][0]["pointer"] == "#/n"
    assert "in the query" in told["detail"]


def test_without_a_body_the_query_is_the_request(client: TestClient) -> None:
    answer = client.post("/generate/vae?n=2&seed=7", headers={"Accept": "application/json"})
    assert [image["seed"] for image in answer.json()["images"]] == [7, 8]
    assert problem(client.post("/generate/vae?foo=1"), 422, "invalid-field")["errors"][0]["pointer"] == "#/foo"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/generate/vae", {"image": 5}, "image: must be a picture: base64, or a file of a form."),
        ("/generate/vae", {"image": "http://here/a.png"}, "image: is a URL, and URLs are not fetched"),
        ("/interpolate", {"model": "vae", "from": 5}, "from: must be an object."),
        ("/generate/vae", {"latents": [[1e300] * 4]}, "latents: has numbers outside -100 to 100."),
    ],
)
def test_messages_do_not_use_pythons_terms(client: TestClient, path: str, body: dict[str, object], said: str) -> None:
    assert said in problem(client.post(path, json=body), 422, "invalid-field")["detail"]


async def test_bodies_that_arrive_hold_a_bounded_number_of_bytes(tmp_path: Path) -> None:
    """Each of them may be complete but for a byte; a small one is read all the same."""
    small, held = 1000, asyncio.Event()
    limits = Settings(weights_dir=tmp_path, max_arriving_bytes=2_000_000, max_image_bytes=3_000_000)

    def arriving(first: bytes, rest: bytes) -> Request:
        chunks = iter([first])

        async def receive() -> Message:
            if chunk := next(chunks, b""):
                return {"type": "http.request", "body": chunk, "more_body": True}
            await held.wait()
            return {"type": "http.request", "body": rest, "more_body": False}

        return Request({"type": "http", "headers": []}, receive)

    holding = [asyncio.create_task(read_body(arriving(bytes(900_000), b"x"), limits, 1)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(MemoryFull):
        await read_body(arriving(bytes(900_000), b"x"), limits, 1)
    late = asyncio.create_task(read_body(arriving(bytes(small), b"x"), limits, 1))
    await asyncio.sleep(0)
    held.set()
    assert [len(await each) for each in (*holding, late)] == [900_001, 900_001, small + 1]
    assert len(await read_body(arriving(bytes(900_000), b"x"), limits, 1)) == 900_001
