"""What is kept of a job with prompts gives the same pictures again."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from service.api.response.recipe import unpack_recipe
from service.api.state import State
from service.store.jobs import Interrupted
from tests.service.api.conftest import ask, base64_png, running, to_body
from tests.service.api.prompts.test_pictures import left_half, some_colours
from tests.service.api.response.test_recipe import ALL, ASYNC, STREAM, Started, body_of, resumed, without_time
from tests.service.conftest import settings_of

PICTURE, MASK = base64_png(some_colours()), base64_png(left_half())
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lists": (
        "/generate/control",
        {"prompt": ["a fox", ""], "negative_prompt": ["rain", "fog"], "lora": [None, {"name": "ink", "scale": 0.5}]},
    ),
    "uploads": (
        "/generate/control",
        {"prompt": "a fox", "image": PICTURE, "mask": MASK, "control_image": PICTURE, "control_end": 0.5, "width": 24},
    ),
    "a path": (
        "/interpolate",
        {
            "model": "control",
            "from": {"prompt": "a fox"},
            "to": {"seed": 3},
            "prompt": "an owl",
            "width": 24,
            "frames": 3,
        },
    ),
    "Hugging Face": ("/generate/control", {"inputs": "a fox", "parameters": {"num_inference_steps": 2, "width": 24}}),
    "an edit": (
        "/v1/images/edits",
        {"model": "control", "prompt": "a fox", "image": PICTURE, "size": "24x16", "stream": True},
    ),
}


@pytest.fixture
async def app(weights: Path, tmp_path: Path) -> AsyncIterator[FastAPI]:
    own = tmp_path / "weights"
    own.mkdir()
    (own / "control").symlink_to(weights / "control")
    async with running(settings_of(own)) as each:
        yield each


async def test_recipes_give_the_same_pictures(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    state: State = app.state.service
    for name, (path, fields) in REQUESTS.items():
        started = Started(monkeypatch)
        headers = STREAM if "stream" in fields else ASYNC
        steps = {} if "inputs" in fields else {"steps": 2}
        answer = await ask(app, path, to_body({**fields, **steps}), headers=headers)
        assert answer.status in (200, 202), answer.body
        first = await body_of(app, started.jobs[0])
        recipe = unpack_recipe(started.recipes[0])
        again = ALL[recipe.task](state, recipe, state.deployment("control"))
        assert again.params == started.orders[0].params, name
        left = Interrupted("0" * 32, "client", "control", 1.0, started.recipes[0], 10, 1)
        job = await resumed(state, left, monkeypatch)
        assert without_time(await body_of(app, job)) == without_time(first), name
        assert job.work.reading is None
        assert job.work.rows[0].conditions is None
