"""The API of AUTOMATIC1111's web UI; the client itself is in tests/e2e/dialects."""

import asyncio
import base64
import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.settings import Settings
from tests.service.api.conftest import (
    LONG,
    accepted,
    ask,
    assert_same,
    base64_png,
    decode,
    idle,
    pictures,
    problem,
    refused,
    running,
    some_picture,
    to_body,
)

#: What clients send of everything that nobody asked for.
NOTHING: dict[str, Any] = {
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "denoising_strength": 0.7,
    "firstphase_width": 0,
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0.0,
    "restore_faces": False,
    "do_not_save_grid": False,
    "eta": 1.0,
    "s_churn": 0,
    "override_settings": {},
    "script_args": [],
    "script_name": None,
    "send_images": True,
    "scheduler": "automatic",
    "alwayson_scripts": {"ADetailer": {"args": [False]}, "ControlNet": {"args": []}},
}
DDPM: dict[str, Any] = {"override_settings": {"sd_model_checkpoint": "ddpm"}}


UNIT = "alwayson_scripts/ControlNet/args/0"
PICTURE = base64_png(some_picture())


def control(*units: dict[str, Any]) -> dict[str, Any]:
    return {"alwayson_scripts": {"controlnet": {"args": [*units]}}}


def draw(client: TestClient, to: str = "txt2img", **fields: Any) -> Any:
    return client.post(f"/sdapi/v1/{to}", json={**NOTHING, **fields})


def test_a_class_is_a_prompt(client: TestClient) -> None:
    answer = draw(
        client, **DDPM, prompt="bag", seed=7, steps=3, cfg_scale=2.0, sampler_name="DDIM", width=16, height=16, n_iter=2
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    fields = {"class_label": "bag", "seed": 7, "steps": 3, "guidance_scale": 2.0, "solver": "ddim", "scale": 2}
    made = pictures(client, "ddpm", **fields, n=2)
    for picture, expected in zip(body["images"], made, strict=True):
        assert_same(decode(base64.b64decode(picture)), expected)
    info = json.loads(body["info"])
    assert (info["seed"], info["all_seeds"], info["sampler_name"]) == (7, [7, 8], "DDIM")
    assert (info["width"], info["steps"], info["sd_model_name"]) == (8, 3, "ddpm")


def test_a_picture_is_redrawn(client: TestClient) -> None:
    sent, mask = base64_png(some_picture()), base64_png(some_picture(1))
    fields = {"denoising_strength": 0.5, "mask": mask, "inpainting_mask_invert": 1, "mask_blur": 4}
    answer = draw(client, "img2img", **DDPM, init_images=[sent], seed=7, steps=4, sampler_index="DDIM", **fields)
    assert answer.status_code == 200, answer.text
    made = pictures(
        client,
        "ddpm",
        class_label="none",
        image=sent,
        mask=mask,
        mask_invert=True,
        strength=0.5,
        seed=7,
        steps=4,
        solver="ddim",
    )
    assert_same(decode(base64.b64decode(answer.json()["images"][0])), made[0])


@pytest.mark.parametrize(
    ("fields", "pointer", "says"),
    [
        ({"colour": "red"}, "colour", "no such field"),
        ({"step": 3}, "step", "(did you mean steps?)"),
        ({"enable_hr": True}, "enable_hr", "not supported"),
        ({"styles": ["ink"]}, "styles", "not supported"),
        ({"alwayson_scripts": {"Roop": {"args": [1]}}}, "alwayson_scripts", "'Roop'"),
        (control({"image": PICTURE}), f"{UNIT}/image", "it reads no control pictures"),
        ({"scheduler": "karras"}, "scheduler", "automatic"),
        ({"sampler_name": "Heun"}, "sampler_name", "Euler a, Euler, DPM++ 2M"),
        ({"sampler_name": "LCM"}, "sampler_name", "'ddim'"),
        ({"seed": -2}, "seed", "greater than or equal to -1"),
        ({"cfg_scale": 21.0}, "cfg_scale", "less than or equal to 20"),
        ({"prompt": "<lora:a:1> <lora:b:1>"}, "prompt", "one <lora:name:scale>"),
        ({"prompt": "<lora:a:1.2.3>"}, "prompt", "not a number"),
        ({"prompt": "<lora:a>"}, "prompt", "has no LoRAs"),
        ({"n_iter": 65}, "batch_size", "up to 64"),
    ],
)
def test_what_is_lacking_is_refused(client: TestClient, fields: dict[str, Any], pointer: str, says: str) -> None:
    assert says in refused(draw(client, **{**DDPM, **fields}), f"#/{pointer}")


def test_a_size_and_a_text_that_the_model_lacks(client: TestClient) -> None:
    assert problem(draw(client, **DDPM, width=17), 400, "bad-request")["errors"][0]["pointer"] == "#/width"
    for field in ("prompt", "negative_prompt"):
        problem(draw(client, **DDPM, **{field: "x" * 100}), 400, "bad-request")


def test_what_is_served(client: TestClient) -> None:
    models = client.get("/sdapi/v1/sd-models").json()
    assert [each["model_name"] for each in models] == ["ddpm", "vae"]
    assert client.get("/sdapi/v1/options").json() == {"sd_model_checkpoint": models[0]["title"]}
    assert "DDIM" in [each["name"] for each in client.get("/sdapi/v1/samplers").json()]
    assert client.get("/sdapi/v1/loras").json() == []
    assert client.get("/sdapi/v1/scripts").json() == {"txt2img": [], "img2img": []}
    assert client.get("/controlnet/model_list").json() == {"model_list": []}
    named: dict[str, Any] = {
        "override_settings": {"sd_model_checkpoint": models[1]["title"], "CLIP_stop_at_last_layers": 1}
    }
    assert draw(client, **named).status_code == 200


def test_the_model_is_chosen_by_each_request(client: TestClient) -> None:
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "ddpm", "other": 1}).status_code == 200
    answer = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "vae"})
    assert "override_settings" in refused(answer, "#/sd_model_checkpoint")
    problem(draw(client, override_settings={"sd_model_checkpoint": "xl"}), 404, "unknown-model")


def test_nothing_is_in_progress(client: TestClient) -> None:
    told = client.get("/sdapi/v1/progress").json()
    assert (told["progress"], told["state"]["job_count"]) == (0.0, 0)


async def progress(app: FastAPI, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(app, "/sdapi/v1/progress", method="GET", query=query)).body)
    return found


async def test_requests_are_interrupted_by_their_client_only(all_tasks: Settings) -> None:
    async with running(all_tasks) as app:
        body = to_body({**DDPM, "n_iter": 32, "steps": LONG["steps"]})
        drawing = [asyncio.create_task(ask(app, "/sdapi/v1/txt2img", body)) for _ in range(2)]
        other = asyncio.create_task(ask(app, "/sdapi/v1/txt2img", body, client="192.0.2.1"))
        job = await ask(app, "/generate/ddpm", to_body(LONG), headers={"Prefer": "respond-async"})
        while (told := await progress(app))["state"]["job_count"] < 2:
            await asyncio.sleep(0)
        assert (told["state"]["job_count"], told["state"]["sampling_steps"]) == (2, 1000)
        await ask(app, "/sdapi/v1/interrupt", client="192.0.2.2")
        assert not any(each.done() for each in drawing)
        await ask(app, "/sdapi/v1/interrupt")
        assert [(await each).status for each in drawing] == [410, 410]
        assert not other.done()
        assert json.loads((await ask(app, job.headers["location"], method="GET")).body)["status"] != "canceled"
        await ask(app, f"{job.headers['location']}/cancel")
        await ask(app, "/sdapi/v1/interrupt", client="192.0.2.1")
        assert (await other).status == 410
        await idle(app)


async def test_progress_shows_the_latest_picture(all_tasks: Settings) -> None:
    async with running(all_tasks) as app:
        settings = {"sd_model_checkpoint": "ddpm", "show_progress_every_n_steps": 5}
        body = to_body({"override_settings": settings, "n_iter": 64, "steps": LONG["steps"]})
        drawing = asyncio.create_task(ask(app, "/sdapi/v1/txt2img", body))
        while (told := await progress(app))["current_image"] is None:
            await asyncio.sleep(0)
        first = told["current_image"]
        assert decode(base64.b64decode(first)).shape == (8, 8, 1)
        while (await progress(app))["current_image"] == first:
            await asyncio.sleep(0)
        assert (await progress(app, "skip_current_image=true"))["current_image"] is None
        assert (await progress(app, "skip_current_image=false"))["current_image"] is not None
        await ask(app, "/sdapi/v1/interrupt")
        await drawing


@pytest.mark.parametrize("setting", [{"live_previews_enable": False}, {"show_progress_every_n_steps": -1}])
async def test_progress_without_a_picture(all_tasks: Settings, setting: dict[str, Any]) -> None:
    async with running(all_tasks) as app:
        settings = {"sd_model_checkpoint": "ddpm", **setting}
        body = to_body({"override_settings": settings, "n_iter": 64, "steps": LONG["steps"]})
        drawing = asyncio.create_task(ask(app, "/sdapi/v1/txt2img", body))
        while (told := await progress(app))["state"]["sampling_step"] < 2:
            await asyncio.sleep(0)
        assert told["current_image"] is None
        await ask(app, "/sdapi/v1/interrupt")
        await drawing


async def test_a_client_that_leaves_ends_its_work(all_tasks: Settings) -> None:
    async with running(all_tasks) as app:
        leaves = asyncio.Event()
        body = to_body({**DDPM, "n_iter": 64, "steps": LONG["steps"]})
        drawing = asyncio.create_task(ask(app, "/sdapi/v1/txt2img", body, leaves=leaves))
        await accepted(app)
        leaves.set()
        await drawing
        await idle(app)
