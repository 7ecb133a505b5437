"""A result that was kept as bytes is shown as the result itself."""

import json
from typing import Any

import pytest
from starlette.requests import Request

from service.api.request.negotiation import PICTURES
from service.api.response.job_answers import result
from service.api.response.job_codec import JobCodec
from service.api.response.packed import pack, unpack
from service.api.state import JobResult, PictureJob
from service.errors import ServiceError
from service.settings import Settings
from tests.service.api.conftest import ask, base64_png, running, some_picture, to_body

ASYNC = {"Prefer": "respond-async"}
CODEC = JobCodec()


@pytest.mark.parametrize("parts", [[], [b""], [b"one", b"", b"two" * 1000]])
def test_packed_parts_are_unpacked(parts: list[bytes]) -> None:
    head = {"name": ["ä", 1, None]}
    assert unpack(pack(head, parts)) == (head, parts)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (
            "/generate/ddpm",
            {"n": 3, "steps": 4, "seed": 2, "scale": 2, "format": "webp", "quality": 40},
        ),
        ("/generate/ddpm", {"n": 2, "steps": 4, "seed": 2, "layout": "film"}),
        ("/generate/ddpm", {"n": 2, "steps": 4, "seed": 2, "layout": "film", "preview_kind": "x0", "format": "gif"}),
        ("/generate/vae", {"n": 5, "seeds": [4, 3, 2, 1, 0], "layout": "sprite"}),
        ("/interpolate", {"model": "vae", "from": {"seed": 1}, "to": {"seed": 2}, "frames": 3}),
        ("/encode/vae", {"image": [base64_png(some_picture(seed)) for seed in (1, 2)]}),
    ],
)
async def test_a_kept_result_is_shown_in_every_form(all_tasks: Settings, path: str, fields: dict[str, Any]) -> None:
    async with running(all_tasks) as app:
        status = json.loads((await ask(app, path, to_body(fields), headers=ASYNC)).body)
        job: PictureJob = await app.state.service.jobs.get(status["id"])
        assert await job.wait(60.0)
        assert job.result is not None, job.error
        kept = CODEC.unpack(CODEC.pack(job.result), job.result.body)
        for media in (None, *PICTURES):
            assert await shown(app, job, kept, media) == await shown(app, job, job.result, media)


async def shown(app: object, job: PictureJob, output: JobResult, media: str | None) -> object:
    """The answer with ``output`` as ``media``, else in the form that was asked for; or its error."""
    job.result = output
    headers = [] if media is None else [(b"accept", media.encode())]
    request = Request({"type": "http", "headers": headers, "app": app, "path": "/", "query_string": b""})
    try:
        answer = await result(request, job)
    except ServiceError as failure:
        return failure.code, failure.detail
    told = {name: value for name, value in answer.raw_headers if name != b"server-timing"}
    return told, bytes(answer.body)
