"""The API of AUTOMATIC1111's web UI: /sdapi/v1."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue
from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.dialects.a1111_request import SAMPLERS, Img2ImgRequest, Settings, Txt2ImgRequest, in_their_words
from service.api.dialects.native import DialectRequest
from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Handler, Operation
from service.api.order import Order
from service.api.request.body import parse_json, read_body, read_request
from service.api.request.negotiation import JSON
from service.api.response.documented import BODY_ERRORS, COMPUTE_ERRORS
from service.api.response.job_answers import wait_for
from service.api.response.job_events import event_json
from service.api.response.job_runner import end_with_connection, start_job
from service.api.response.rendering import picture_png
from service.api.state import AnyJob, JobResult, PictureJob, State, client_of, deployment_of, state_of
from service.api.tasks.generate import generate_order
from service.contract.manifest import Manifest
from service.engine.model import Model
from service.engine.rows import Film
from service.errors import InvalidField, UnknownModel
from service.request_info import info_of

#: Open jobs of a client that are looked at: more than a store holds.
MOST_JOBS = 10_000
#: Fields of an answer that would repeat what was sent.
_UPLOADS = ("image", "mask", "control_image")
#: The name of this API in jobs.
DIALECT = "a1111"
_NO_STORE = {"Cache-Control": "no-store"}


async def txt2img(http_request: Request) -> Response:
    """Generate pictures, with the fields of AUTOMATIC1111's web UI."""
    return await _generate(http_request, Txt2ImgRequest, pictures=1)


async def img2img(http_request: Request) -> Response:
    """Generate pictures from a picture, with the fields of AUTOMATIC1111's web UI."""
    return await _generate(http_request, Img2ImgRequest, pictures=3)


async def progress(http_request: Request) -> Response:
    """Progress of the client's oldest open request to txt2img or img2img, by its API key or address.

    `current_image` is the latest picture of its denoising, in base64; `skip_current_image=true` leaves it out.
    """
    own = await _open_jobs(http_request)
    fraction, eta_s, steps, picture = 0.0, 0.0, 0, None
    if own:
        await own[-1].refresh()
        fraction, eta_s, steps = own[-1].progress.fraction, (own[-1].progress.eta_ms or 0) / 1000, own[-1].about.steps
        if http_request.query_params.get("skip_current_image", "false").lower() not in ("true", "1"):
            picture = await _latest_preview(own[-1])
    told = {"skipped": False, "interrupted": False, "job": "", "job_count": len(own), "job_no": 0}
    told |= {"sampling_step": int(fraction * steps), "sampling_steps": steps}
    return _json(
        {"progress": fraction, "eta_relative": eta_s, "state": told, "current_image": picture, "textinfo": None}
    )


async def interrupt(http_request: Request) -> Response:
    """Cancel the client's open requests to txt2img and img2img, by its API key or address."""
    jobs = state_of(http_request).jobs
    for job in await _open_jobs(http_request):
        await jobs.cancel(job.id)
    return _json({})


async def _open_jobs(http_request: Request) -> Sequence[AnyJob]:
    """The open jobs of this API of the client, newest first."""
    jobs = await state_of(http_request).jobs.of(client_of(http_request), MOST_JOBS, only_open=True)
    return [job for job in jobs if job.about.dialect == DIALECT and not job.done]


async def _latest_preview(job: AnyJob) -> str | None:
    """The latest preview as a PNG in base64; None before the first."""
    latest = None
    with job.listen() as listener:
        while (event := await listener.next(0)) is not None:
            latest = event if event.name == "preview" else latest
    if latest is None:
        return None
    preview: dict[str, str] = from_json(await asyncio.to_thread(event_json, job, latest))
    return preview["b64_json"]


async def samplers(http_request: Request) -> Response:
    """The solvers of the served models."""
    known = {solver for each in _models(state_of(http_request)) for solver in each.solvers}
    return _json(
        [{"name": name, "aliases": [solver], "options": {}} for name, solver in SAMPLERS.items() if solver in known]
    )


async def sd_models(http_request: Request) -> Response:
    """The served models."""
    manifests = [each.manifest for each in _models(state_of(http_request))]
    return _json([_shown(each) for each in manifests])


def _shown(manifest: Manifest) -> dict[str, str | None]:
    """A model in their list."""
    named = {"title": _title(manifest), "model_name": manifest.name, "filename": manifest.name}
    return {**named, "hash": manifest.version, "sha256": manifest.artifact.sha256, "config": None}


async def loras(http_request: Request) -> Response:
    """The LoRAs of the served models."""
    found = [(each.name, name) for each in _models(state_of(http_request)) for name in each.adapters]
    return _json(
        [
            {"name": name, "alias": name, "path": f"{model}/loras/{name}.safetensors", "metadata": {}}
            for model, name in found
        ]
    )


async def scripts(http_request: Request) -> Response:
    """The ControlNet extension, if a model has one: clients ask before the first picture."""
    # webuiapi looks for the second name, and without it sends the units of its last call again.
    names = ["controlnet", "controlnet m2m"] if _controls(state_of(http_request)) else []
    return _json({"txt2img": names, "img2img": names})


async def control_models(http_request: Request) -> Response:
    """The ControlNets of the served models."""
    return _json({"model_list": _controls(state_of(http_request))})


def _controls(state: State) -> Sequence[str]:
    """The names of the ControlNets of all models."""
    pipelines = [each.manifest.pipeline for each in _models(state)]
    return sorted({name for pipeline in pipelines if pipeline is not None for name in pipeline.controls})


async def get_options(http_request: Request) -> Response:
    """The model of requests that name none."""
    state = state_of(http_request)
    return _json({"sd_model_checkpoint": _title(state.deployment(_default(state)).model.manifest)})


async def set_options(http_request: Request) -> Response:
    """Rejects another model: every request names its own, in override_settings."""
    state = state_of(http_request)
    asked = parse_json(Settings, await read_body(http_request, state.settings)).sd_model_checkpoint
    if asked is not None and _name(asked) != _default(state):
        raise InvalidField.of("sd_model_checkpoint", "is chosen for each request", "override_settings of the request")
    return _json({})


async def _generate(http_request: Request, schema: type[Txt2ImgRequest], pictures: int) -> Response:
    state = state_of(http_request)
    # In one expression: a variable would keep the uploads in memory while the request waits.
    job = await start_job(
        http_request,
        state,
        _ordered(http_request, state, await read_request(http_request, state.settings, schema, pictures=pictures)),
        live=False,
    )
    try:
        await wait_for(http_request, job, state.settings.job_timeout_s)
    except BaseException:
        end_with_connection(job, info_of(http_request.scope).disconnect)
        raise
    return await _answer(http_request, job)


def _ordered(http_request: Request, state: State, request: Txt2ImgRequest) -> Order:
    settings = request.override_settings
    asked = settings.sd_model_checkpoint
    deployment = deployment_of(http_request, state, _default(state) if asked is None else _name(asked))
    native = request.translated(deployment.model.manifest)
    try:
        order = generate_order(state, native, deployment, JSON)
    except InvalidField as failure:
        raise in_their_words(failure) from None
    return _with_previews(order._replace(dialect=DIALECT), settings.preview_every)


def _with_previews(order: Order, every: int) -> Order:
    """``order`` with previews of its first picture, which progress shows: decoding those of all would cost more."""
    first, *others = order.rows
    if not every or not first.plan.steps:
        return order
    return order._replace(rows=[first._replace(film=Film(every)), *others])


async def _answer(http_request: Request, job: PictureJob) -> Response:
    if job.error is not None:
        info_of(http_request.scope).counted = True
        raise job.error.with_traceback(None)
    result = job.result
    assert result is not None
    parameters = {name: value for name, value in result.order.params.items() if name not in _UPLOADS}
    encoded = await asyncio.to_thread(_encoded, result)
    return _json({"images": encoded, "parameters": parameters, "info": to_json(_info(result)).decode()})


def _encoded(result: JobResult) -> Sequence[str]:
    """The pictures as PNGs in base64."""
    files = [picture_png(result.order, index, picture) for index, picture in enumerate(result.output.pictures)]
    return [base64.b64encode(file).decode() for file in files]


def _info(result: JobResult) -> Mapping[str, JsonValue]:
    order, manifest = result.order, result.order.model.manifest
    height, width, _ = result.output.pictures[0].shape
    prompt, negative = order.params.get("prompt", ""), order.params.get("negative_prompt", "")
    return {
        "prompt": prompt,
        "all_prompts": [prompt] * len(order.seeds),
        "negative_prompt": negative,
        "seed": order.seeds[0],
        "all_seeds": [*order.seeds],
        "width": width,
        "height": height,
        "sampler_name": next((name for name, solver in SAMPLERS.items() if solver == order.params.get("solver")), None),
        "cfg_scale": order.params.get("guidance_scale"),
        "steps": order.params.get("steps"),
        "batch_size": len(order.seeds),
        "sd_model_name": manifest.name,
        "sd_model_hash": manifest.version,
        "warnings": [*order.warnings],
    }


def _models(state: State) -> Sequence[Model]:
    """The served models by name."""
    return [state.engine.deployments[name].model for name in sorted(state.engine.deployments)]


def _default(state: State) -> str:
    """The first model that reads text, else the first that generates. Raises UnknownModel where none is served."""
    models = [each for each in _models(state) if "generate" in each.manifest.capabilities]
    if not models:
        raise UnknownModel("", ())
    return min(models, key=lambda model: not model.manifest.reads_prompts).name


def _name(title: str) -> str:
    return title.partition(" [")[0]


def _title(manifest: Manifest) -> str:
    return f"{manifest.name} [{manifest.version}]"


def _json(content: object) -> Response:
    return JSONResponse(content, headers=_NO_STORE)


_PICTURES = {
    "type": "object",
    "required": ["images", "parameters", "info"],
    "properties": {
        "images": {"type": "array", "items": {"type": "string"}, "description": "PNGs in base64."},
        "parameters": {"type": "object", "additionalProperties": True, "description": "The request to /generate."},
        "info": {"type": "string", "description": "JSON: seeds, size, sampler, and what the answer shows."},
    },
}
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
_OBJECTS = {"type": "array", "items": _OBJECT}
_TAG = "AUTOMATIC1111"


def _tell(handler: Handler, schema: dict[str, Any], *errors: int) -> Operation:
    return Operation(handler, _TAG, {200: Answer("What is asked for.", {JSON: schema}, ["Cache-Control"])}, errors)


def _draw(handler: Handler, body: type[DialectRequest]) -> Operation:
    answer = {200: Answer("The images.", {JSON: _PICTURES}, ["Cache-Control"])}
    return Operation(handler, _TAG, answer, (*BODY_ERRORS, 410, 415, *COMPUTE_ERRORS), body=[body])


ROUTES = (
    route("/sdapi/v1/txt2img", {"POST": _draw(txt2img, Txt2ImgRequest)}),
    route("/sdapi/v1/img2img", {"POST": _draw(img2img, Img2ImgRequest)}),
    route("/sdapi/v1/progress", {"GET": _tell(progress, _OBJECT)}),
    route("/sdapi/v1/interrupt", {"POST": _tell(interrupt, _OBJECT)}),
    route("/sdapi/v1/samplers", {"GET": _tell(samplers, _OBJECTS)}),
    route("/sdapi/v1/sd-models", {"GET": _tell(sd_models, _OBJECTS)}),
    route("/sdapi/v1/loras", {"GET": _tell(loras, _OBJECTS)}),
    route("/sdapi/v1/scripts", {"GET": _tell(scripts, _OBJECT)}),
    route("/controlnet/model_list", {"GET": _tell(control_models, _OBJECT)}),
    route(
        "/sdapi/v1/options",
        {"GET": _tell(get_options, _OBJECT, 404), "POST": _tell(set_options, _OBJECT, *BODY_ERRORS, 404, 422)},
    ),
)
