"""What is kept of a job gives the same order again, whatever the job is computed from."""

import base64
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from service.api.dialects.edits import edit_again
from service.api.order import Order
from service.api.request.arrays import to_base64
from service.api.response.job_runner import Rebuild, resume_jobs
from service.api.response.recipe import EDIT, unpack_recipe
from service.api.state import PictureJob, State
from service.api.tasks.again import BUILDERS
from service.errors import MemoryFull, ServiceError
from service.settings import Settings
from service.store.jobs import Interrupted, MemoryJobs
from tests.service.api.conftest import ask, base64_png, running, some_picture, to_body

ASYNC = {"Prefer": "respond-async", "Host": "pictures.example"}
STREAM = {"Accept": "text/event-stream", "Host": "pictures.example"}
ALL: Mapping[str, Rebuild] = {**BUILDERS, EDIT: edit_again}
LATENTS = to_base64(np.linspace(-1, 1, 8 * 8, dtype=np.float32).reshape(1, 1, 8, 8))


def transparent() -> str:
    """A picture whose left half is redrawn."""
    file = io.BytesIO()
    alpha = np.repeat([0, 255], 4).astype(np.uint8) * np.ones((8, 1), np.uint8)
    Image.fromarray(np.stack([*some_picture().repeat(3, axis=2).transpose(2, 0, 1), alpha], axis=2)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "drawn seed": ("/generate/ddpm", {"n": 2, "steps": 3}),
    "seeds and classes": ("/generate/ddpm", {"seeds": [5, 9], "class_label": ["1", "none"], "steps": 2, "scale": 3}),
    "guided": (
        "/generate/ddpm",
        {"class_label": 1, "guidance_scale": 2, "negative_class": 0, "solver": "ddim", "eta": 0.5},
    ),
    "previews": ("/generate/ddpm", {"steps": 4, "preview_every": 2, "preview_kind": "both", "format": "gif"}),
    "film": ("/generate/ddpm", {"n": 2, "steps": 4, "layout": "film", "timeout_ms": 50_000, "metadata": {"a": "b"}}),
    "latents": ("/generate/ddpm", {"latents": LATENTS, "steps": 2}),
    "truncation": ("/generate/vae", {"truncation": 0.5}),
    "variations": ("/generate/vae", {"image": base64_png(some_picture()), "n": 2, "spread": 0.5}),
    "redrawn": ("/generate/ddpm", {"image": base64_png(some_picture()), "strength": 0.5, "steps": 4}),
    "mask": (
        "/generate/ddpm",
        {"image": base64_png(some_picture()), "mask": base64_png(some_picture(1)), "mask_invert": True, "steps": 2},
    ),
    "Hugging Face": ("/generate/ddpm", {"inputs": "1", "parameters": {"num_inference_steps": 2, "width": 16}}),
    "path of nothing": ("/interpolate", {"model": "vae", "frames": 3}),
    "path of seeds": ("/interpolate", {"model": "ddpm", "from": {"seed": 1}, "to": {}, "frames": 3, "steps": 2}),
    "path of pictures": (
        "/interpolate",
        {"model": "vae", "from": {"image": base64_png(some_picture())}, "to": {"class_label": None}, "frames": 3},
    ),
    "path of points": (
        "/interpolate",
        {
            "model": "ddpm",
            "points": [{"image": base64_png(some_picture())}, {}, {"latents": np.zeros((1, 8, 8)).tolist()}],
            "frames": 4,
            "steps": 2,
            "loop": True,
            "easing": "cosine",
        },
    ),
    "one code": ("/encode/vae", {"image": base64_png(some_picture())}),
    "codes": (
        "/encode/ldm",
        {"image": [base64_png(some_picture(seed)) for seed in (1, 2)], "format": "npy"},
    ),
}
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "a stream": ("/generate/ddpm", {"n": 2, "steps": 3}),
    "OpenAI": (
        "/v1/images/generations",
        {"model": "ddpm", "prompt": "", "stream": True, "partial_images": 2, "steps": 4},
    ),
    "an edit": (
        "/v1/images/edits",
        {"model": "ddpm", "prompt": "", "stream": True, "image": transparent(), "steps": 3, "partial_images": 1},
    ),
    "an edit with a mask": (
        "/v1/images/edits",
        {"model": "ddpm", "prompt": "1", "stream": True, "image": base64_png(some_picture()), "mask": transparent()},
    ),
}


class Started:
    """The jobs that a service starts, with what would be kept of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recipes: list[bytes] = []
        self.orders: list[Order] = []
        self.jobs: list[PictureJob] = []
        add = MemoryJobs.add

        async def adding(store: MemoryJobs[Any, Any], job: PictureJob, recipe: Callable[[], bytes]) -> None:
            self.recipes.append(recipe())
            self.orders.append(job.work)
            self.jobs.append(job)
            await add(store, job, recipe)

        monkeypatch.setattr(MemoryJobs, "add", adding)


@pytest.fixture
async def app(all_tasks: Settings) -> AsyncIterator[FastAPI]:
    async with running(all_tasks) as each:
        yield each


def without_time(answer: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(answer)
    return {name: value for name, value in told.items() if name not in ("id", "created", "timings")}


async def body_of(app: FastAPI, job: PictureJob) -> bytes:
    assert await job.wait(60.0)
    assert job.result is not None, job.error
    return job.result.body


@pytest.mark.parametrize("name", [*REQUESTS, *STREAMS])
async def test_a_recipe_gives_the_same_pictures(app: FastAPI, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started(monkeypatch)
    live = name in STREAMS
    path, fields = (STREAMS if live else REQUESTS)[name]
    answer = await ask(app, path, to_body(fields), headers=STREAM if live else ASYNC)
    assert answer.status == (200 if live else 202), answer.body
    first = await body_of(app, started.jobs[0])

    state: State = app.state.service
    recipe = unpack_recipe(started.recipes[0])
    again = ALL[recipe.task](state, recipe, state.deployment(recipe.model))
    order = started.orders[0]
    assert (again.params, again.seeds, again.media, again.layout) == (
        order.params,
        order.seeds,
        order.media,
        order.layout,
    )
    assert (recipe.live, recipe.request("client").headers["host"]) == (live, "pictures.example")
    job = await resumed(state, Interrupted("0" * 32, "client", "ddpm", 1.0, started.recipes[0], 10, 1), monkeypatch)
    assert without_time(await body_of(app, job)) == without_time(first)
    told, events = started.jobs[0].log.all_after(0), job.log.all_after(0)
    assert [event.name for event in events] == [event.name for event in told]
    assert events[0].id == 11


async def resumed(state: State, left: Interrupted, monkeypatch: pytest.MonkeyPatch) -> PictureJob:
    """The job that a service makes of an interrupted one."""
    jobs: list[PictureJob] = []
    waiting = [left]

    async def claim(store: object, full: Sequence[str] = ()) -> Interrupted | None:
        return waiting.pop() if waiting else None

    async def resume(store: object, job: PictureJob) -> None:
        jobs.append(job)

    monkeypatch.setattr(MemoryJobs, "claim", claim)
    monkeypatch.setattr(MemoryJobs, "resume", resume)
    await resume_jobs(state, ALL)
    return jobs[0]


async def failure_of(state: State, left: Interrupted, monkeypatch: pytest.MonkeyPatch) -> ServiceError:
    """The error that an interrupted job fails with."""
    failures: list[ServiceError] = []

    async def fail(store: object, id: str, failure: ServiceError) -> None:
        assert id == left.id
        failures.append(failure)

    monkeypatch.setattr(MemoryJobs, "fail", fail)
    with pytest.raises(IndexError):
        await resumed(state, left, monkeypatch)
    return failures[0]


async def test_what_cannot_be_computed_again_fails(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    started, state = Started(monkeypatch), app.state.service
    for fields in ({"steps": 2}, {"steps": 2, "version": state.deployment("ddpm").model.manifest.version}):
        await ask(app, "/generate/ddpm", to_body(fields), headers=ASYNC)
    plain, versioned = (Interrupted("0" * 32, "client", "ddpm", 1.0, each, 0, 1) for each in started.recipes)
    crashed = await failure_of(state, plain._replace(crashes=3), monkeypatch)
    assert (crashed.code, crashed.detail) == ("compute-failed", "The service ended 3 times while it computed this job.")
    other = plain._replace(recipe=plain.recipe.replace(b'"ddpm"', b'"gone"'))
    assert (await failure_of(state, other, monkeypatch)).code == "unknown-model"
    newer = plain._replace(recipe=plain.recipe.replace(b'"steps"', b'"stept"'))
    assert (await failure_of(state, newer, monkeypatch)).code == "bad-request"
    version = str(state.deployment("ddpm").model.manifest.version).encode()
    replaced = versioned._replace(recipe=versioned.recipe.replace(version, b"00000000"))
    assert (await failure_of(state, replaced, monkeypatch)).code == "unknown-version"
    broken = plain._replace(recipe=b"nothing")
    assert (await failure_of(state, broken, monkeypatch)).code == "internal"


async def test_an_interrupted_job_waits_for_room(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    started, state = Started(monkeypatch), app.state.service
    await ask(app, "/generate/ddpm", to_body({"steps": 2}), headers=ASYNC)
    given_back: list[str] = []

    async def unclaim(store: object, id: str) -> None:
        given_back.append(id)

    def full(*_: object) -> None:
        raise MemoryFull(1, 1)

    monkeypatch.setattr(MemoryJobs, "unclaim", unclaim)
    monkeypatch.setattr(state.memory, "reserve", full)
    with pytest.raises(IndexError):
        await resumed(state, Interrupted("0" * 32, "client", "ddpm", 1.0, started.recipes[0], 0, 1), monkeypatch)
    assert given_back == ["0" * 32]
