"""The API of AUTOMATIC1111's web UI: /sdapi/v1.

Its clients send every field of theirs. Those without a meaning here are accepted where they ask for nothing.
"""

import asyncio
import base64
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.dialects.native import DialectRequest, class_of_prompt, prompt_fields, reads_text, size_fields
from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Handler, Operation
from service.api.order import Order
from service.api.request.body import echoed, parse_json, read_body, read_request
from service.api.request.negotiation import JSON
from service.api.request.prompt_text import Prompt
from service.api.request.schemas import GenerateRequest
from service.api.request.uploads import Upload
from service.api.response.documented import BODY_ERRORS, COMPUTE_ERRORS
from service.api.response.job_answers import wait_for
from service.api.response.job_runner import end_with_connection, start_job
from service.api.response.rendering import picture_png
from service.api.state import JobResult, PictureJob, State, client_of, deployment_of, state_of
from service.api.tasks.generate import generate_order
from service.contract.manifest import Manifest
from service.engine.model import Model
from service.errors import InvalidField, UnknownModel
from service.request_info import info_of

#: The names of solvers there.
SAMPLERS = {
    "Euler a": "euler_ancestral",
    "Euler": "euler",
    "DPM++ 2M": "dpmpp_2m",
    "DDIM": "ddim",
    "LCM": "lcm",
    "DDPM": "ddpm",
    "Consistency": "consistency",
}
#: Fields that must ask for nothing.
_LACKING = ("enable_hr", "restore_faces", "tiling", "subseed_strength", "script_name", "script_args", "styles")
#: Fields without a meaning here: how pictures are stored, noise of other samplers, and details of what is lacking.
_IGNORED = re.compile(
    r"hr_\w+|firstphase_\w+|subseed|seed_resize_from_[hw]|do_not_save_\w+|save_images|send_images|eta|s_\w+|"
    r"override_settings_restore_afterwards|resize_mode|image_cfg_scale|mask_blur|inpainting_fill|inpaint_full_res\w*|"
    r"initial_noise_multiplier|include_init_images|denoising_strength|" + "|".join(_LACKING)
)
#: A LoRA in a prompt: <lora:name:0.8>.
_LORA = re.compile(r"<lora:([^:<>]{1,200})(?::([0-9.]{1,10}))?>")
_LISTED = 100
_NO_STORE = {"Cache-Control": "no-store"}


class _Settings(DialectRequest):
    """Settings of the web UI: all but the model are without effect."""

    model_config = ConfigDict(extra="allow")

    sd_model_checkpoint: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="Name of a model, or its title in sd-models. Absent: the first that reads prompts."
    )


class Txt2ImgRequest(DialectRequest):
    """The body of POST /sdapi/v1/txt2img."""

    model_config = ConfigDict(extra="allow")

    prompt: Prompt = Field(default="", description="As in /generate; <lora:name:scale> in it selects a LoRA.")
    negative_prompt: Prompt = Field(default="", description="As in /generate.")
    seed: int = Field(default=-1, ge=-1, lt=1 << 32, description="-1: random.")
    batch_size: int = Field(default=1, ge=1, le=10_000, description="Times n_iter: the number of pictures.")
    n_iter: int = Field(default=1, ge=1, le=10_000, description="See batch_size.")
    steps: int | None = Field(default=None, ge=1, description="Solver steps.")
    cfg_scale: float | None = Field(default=None, ge=0, le=20, description="Guidance; at most 1: none.")
    width: int | None = Field(default=None, ge=1, le=16_384, description="Width in pixels.")
    height: int | None = Field(default=None, ge=1, le=16_384, description="Height in pixels.")
    sampler_name: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="One of samplers.")
    sampler_index: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="The same, without sampler_name."
    )
    scheduler: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="automatic: the noise levels are those of the model's scheduler_config.json."
    )
    override_settings: _Settings | None = Field(default=None, description="sd_model_checkpoint selects the model.")
    alwayson_scripts: dict[str, JsonValue] | None = Field(default=None, description="Only scripts without arguments.")

    def fields(self, manifest: Manifest) -> dict[str, Any]:
        """The fields of /generate that it means. Raises InvalidField, BadRequest."""
        prompt, lora = _lora_of(self.prompt)
        fields: dict[str, Any] = {"n": self.batch_size * self.n_iter, **prompt_fields(prompt, manifest), **lora}
        given = {"steps": self.steps, "guidance_scale": self.cfg_scale, "solver": _solver_of(self)}
        given |= {"seed": None if self.seed < 0 else self.seed}
        if self.negative_prompt.strip():
            text, negative = reads_text(manifest), self.negative_prompt
            given |= {"negative_prompt": negative} if text else {"negative_class": class_of_prompt(negative, manifest)}
        fields |= {name: value for name, value in given.items() if value is not None}
        if self.width is not None or self.height is not None:
            _, height, width = manifest.image_shape
            fields |= size_fields("width", self.width or width, self.height or height, manifest)
        return fields


class Img2ImgRequest(Txt2ImgRequest):
    """The body of POST /sdapi/v1/img2img."""

    init_images: list[Upload] = Field(min_length=1, max_length=1, description="The picture to start from.")
    denoising_strength: float = Field(default=0.75, gt=0, le=1, description="strength of /generate.")
    mask: Upload | None = Field(default=None, description="White is redrawn.")
    inpainting_mask_invert: int = Field(default=0, ge=0, le=1, description="1: black is redrawn.")

    def fields(self, manifest: Manifest) -> dict[str, Any]:
        """As of the base class, with the picture."""
        masked = {} if self.mask is None else {"mask": self.mask, "mask_invert": bool(self.inpainting_mask_invert)}
        own = {"image": self.init_images[0], "strength": self.denoising_strength}
        return super().fields(manifest) | own | masked


async def txt2img(http_request: Request) -> Response:
    """Generate pictures, with the fields of AUTOMATIC1111's web UI."""
    return await _generate(http_request, Txt2ImgRequest)


async def img2img(http_request: Request) -> Response:
    """Generate pictures from a picture, with the fields of AUTOMATIC1111's web UI."""
    return await _generate(http_request, Img2ImgRequest, pictures=2)


async def progress(http_request: Request) -> Response:
    """Progress of the oldest open job of the client, by its API key or address."""
    jobs = await state_of(http_request).jobs.of(client_of(http_request), _LISTED)
    own = [job for job in jobs if not job.done]
    fraction, eta_s, steps = 0.0, 0.0, 0
    if own:
        await own[-1].refresh()
        fraction, eta_s, steps = own[-1].progress.fraction, (own[-1].progress.eta_ms or 0) / 1000, own[-1].about.steps
    told = {"skipped": False, "interrupted": False, "job": "", "job_count": len(own), "job_no": 0}
    told |= {"sampling_step": int(fraction * steps), "sampling_steps": steps}
    return _json({"progress": fraction, "eta_relative": eta_s, "state": told, "current_image": None, "textinfo": None})


async def interrupt(http_request: Request) -> Response:
    """Cancel the open jobs of the client, by its API key or address."""
    jobs = state_of(http_request).jobs
    for job in await jobs.of(client_of(http_request), _LISTED):
        if not job.done:
            await jobs.cancel(job.id)
    return _json({})


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


async def scripts(http_request: Request) -> Response:  # noqa: ARG001
    """No scripts: clients ask before the first picture."""
    return _json({"txt2img": [], "img2img": []})


async def get_options(http_request: Request) -> Response:
    """The model of requests that name none."""
    state = state_of(http_request)
    return _json({"sd_model_checkpoint": _title(state.deployment(_default(state)).model.manifest)})


async def set_options(http_request: Request) -> Response:
    """Rejects another model: every request names its own, in override_settings."""
    state = state_of(http_request)
    asked = parse_json(_Settings, await read_body(http_request, state.settings)).sd_model_checkpoint
    if asked is not None and _name(asked) != _default(state):
        raise InvalidField.of("sd_model_checkpoint", "is chosen for each request", "override_settings of the request")
    return _json({})


async def _generate(http_request: Request, schema: type[Txt2ImgRequest], pictures: int = 0) -> Response:
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
    _check(request)
    settings = request.override_settings
    asked = None if settings is None else settings.sd_model_checkpoint
    deployment = deployment_of(http_request, state, _default(state) if asked is None else _name(asked))
    native = GenerateRequest(**request.fields(deployment.model.manifest))
    return generate_order(state, native, deployment, JSON)


async def _answer(http_request: Request, job: PictureJob) -> Response:
    if job.error is not None:
        info_of(http_request.scope).counted = True
        raise job.error.with_traceback(None)
    result = job.result
    assert result is not None
    parameters = {name: value for name, value in result.order.params.items() if name not in ("image", "mask")}
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


def _check(request: Txt2ImgRequest) -> None:
    """Raise InvalidField for a field that is unknown, or that asks for what is lacking."""
    extra = request.model_extra or {}
    for name, value in extra.items():
        if not _IGNORED.fullmatch(name):
            raise InvalidField.of(echoed(name), "there is no such field")
        if name in _LACKING and value:
            raise InvalidField.of(name, "is not supported", "leave it out")
    for name, script in (request.alwayson_scripts or {}).items():
        arguments = script.get("args") if isinstance(script, dict) else script
        if arguments and arguments != [False]:
            raise InvalidField.of("alwayson_scripts", f"{name[:64]!r} is not supported", "leave it out")
    if (request.scheduler or "automatic").lower() != "automatic":
        raise InvalidField.of("scheduler", "is decided by the model", "automatic")


def _lora_of(prompt: str) -> tuple[str, dict[str, Any]]:
    """The prompt without its LoRA, and the field of it. Raises InvalidField where there are several."""
    found = _LORA.findall(prompt)
    if not found:
        return prompt, {}
    if len(found) > 1:
        raise InvalidField.of("prompt", "has several LoRAs", "one <lora:name:scale>")
    ((name, scale),) = found
    try:
        lora = {"name": name, "scale": float(scale or 1.0)}
    except ValueError:
        raise InvalidField.of("prompt", f"the scale of a LoRA is not a number: {scale}", "<lora:name:0.8>") from None
    if not 0 <= lora["scale"] <= 4:
        raise InvalidField.of("prompt", f"the scale {scale} of a LoRA is too large", "0 to 4")
    return _LORA.sub("", prompt).strip(), {"lora": lora}


def _solver_of(request: Txt2ImgRequest) -> str | None:
    """The solver of a sampler's name, or of a solver's own. Raises InvalidField for an unknown one."""
    field = "sampler_index" if request.sampler_name is None else "sampler_name"
    name = request.sampler_name or request.sampler_index
    if name is None or name in SAMPLERS.values():
        return name
    if name not in SAMPLERS:
        raise InvalidField.of(field, f"there is no sampler {name!r}", ", ".join(SAMPLERS))
    return SAMPLERS[name]


def _models(state: State) -> Sequence[Model]:
    """The served models by name."""
    return [state.engine.deployments[name].model for name in sorted(state.engine.deployments)]


def _default(state: State) -> str:
    """The first model that reads text, else the first that generates. Raises UnknownModel where none is served."""
    models = [each for each in _models(state) if "generate" in each.manifest.capabilities]
    if not models:
        raise UnknownModel("", ())
    return min(models, key=lambda model: not reads_text(model.manifest)).name


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


def _draw(handler: Handler, body: type[DialectRequest], *errors: int) -> Operation:
    answer = {200: Answer("The images.", {JSON: _PICTURES}, ["Cache-Control"])}
    return Operation(handler, _TAG, answer, (*BODY_ERRORS, 410, *errors, *COMPUTE_ERRORS), body=[body])


ROUTES = (
    route("/sdapi/v1/txt2img", {"POST": _draw(txt2img, Txt2ImgRequest)}),
    route("/sdapi/v1/img2img", {"POST": _draw(img2img, Img2ImgRequest, 415)}),
    route("/sdapi/v1/progress", {"GET": _tell(progress, _OBJECT)}),
    route("/sdapi/v1/interrupt", {"POST": _tell(interrupt, _OBJECT)}),
    route("/sdapi/v1/samplers", {"GET": _tell(samplers, _OBJECTS)}),
    route("/sdapi/v1/sd-models", {"GET": _tell(sd_models, _OBJECTS)}),
    route("/sdapi/v1/loras", {"GET": _tell(loras, _OBJECTS)}),
    route("/sdapi/v1/scripts", {"GET": _tell(scripts, _OBJECT)}),
    route(
        "/sdapi/v1/options",
        {"GET": _tell(get_options, _OBJECT, 404), "POST": _tell(set_options, _OBJECT, 400, 404, 413, 422)},
    ),
)
