"""OpenAI's Images API and list of models: /v1.

Only fields and values that this service can honour are accepted.
"""

import base64
import math
import re
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service import images
from service.api.dialects.edits import edit_order
from service.api.dialects.native import DialectRequest, prompt_fields, size_fields, with_native
from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Handler, Operation
from service.api.order import Order, Output, without
from service.api.request.body import read_request
from service.api.request.negotiation import EVENT_STREAM, JSON
from service.api.request.prompt_text import Prompt
from service.api.request.schemas import GenerateRequest
from service.api.request.uploads import Upload
from service.api.response.answers import answer
from service.api.response.documented import BODY_ERRORS, COMPUTE_ERRORS, EVENT, EVENT_HEADERS, IMAGE_HEADERS
from service.api.response.event_stream import EventStream
from service.api.response.job_events import ImageEvent, PreviewEvent, event_json
from service.api.response.job_runner import start_job
from service.api.response.rendering import class_name, picture_png
from service.api.state import PictureJob, State, deployment_of, state_of
from service.api.tasks.generate import generate_order
from service.contract.manifest import Manifest
from service.errors import BadRequest, FieldProblem, InvalidField
from service.store.events import Event

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_NO_STORE = {"Cache-Control": "no-store"}


class _ImagesRequest(DialectRequest):
    """The body of POST /v1/images/generations."""

    #: Prefix of the names of a stream's events.
    event: ClassVar[str] = "image_generation"

    model: str = Field(max_length=64, description="Name of a model.", examples=["ddpm"])
    prompt: Prompt = Field(
        description="What the picture shows. For models without prompts: name or index of a class; empty: no class.",
        examples=["2"],
    )
    size: str = Field(
        default="auto",
        max_length=16,
        description="auto (the model's own size), or width x height, such as 512x512. For models of one size a "
        "multiple of it: pixels become squares.",
    )
    response_format: Literal["b64_json", "url"] = Field(
        default="b64_json", description="b64_json; url is rejected because pictures are not stored."
    )
    output_format: Literal["png", "webp", "jpeg"] = "png"
    output_compression: int | None = Field(
        default=None, ge=1, le=100, description="Quality of webp and jpeg. Absent: webp is lossless, jpeg uses 90."
    )
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    partial_images: int | None = Field(
        default=None, ge=0, le=1000, description="Maximum number of previews of each picture in a stream. Absent: none."
    )
    background: Literal["auto", "opaque"] = Field(default="auto", description="No effect: pictures are opaque.")
    quality: Literal["auto", "standard"] = Field(default="auto", description="No effect: steps decides the quality.")
    moderation: Literal["auto", "low"] = Field(default="auto", description="No effect: nothing is moderated.")
    user: str | None = Field(default=None, max_length=512, description="No effect.")
    safety_identifier: str | None = Field(default=None, max_length=512, description="No effect.")


class _EditRequest(_ImagesRequest):
    """The body of POST /v1/images/edits."""

    event: ClassVar[str] = "image_edit"

    image: Upload = Field(description="Picture to start from: a file of a form (image or image[]), or base64.")
    mask: Upload | None = Field(
        default=None,
        description="Picture whose transparent part is redrawn. Absent: the transparent part of image, if any.",
    )


#: Fields of /generate that requests may have as well.
_SAMPLING = ("n", "seed", "class_label", "negative_class", "steps", "guidance_scale", "solver", "eta", "truncation")
_TEXT = ("negative_prompt", "lora")

ImagesRequest = with_native(_ImagesRequest, *_SAMPLING, *_TEXT, "timeout_ms")
EditRequest = with_native(_EditRequest, *_SAMPLING, *_TEXT, "timeout_ms", "strength")


async def create_image(http_request: Request) -> Response:
    """Generate pictures of a prompt or a class, with OpenAI's fields and the sampling fields of /generate.

    With `stream` the response is events: image_generation.partial_image, image_generation.completed for each picture,
    and `[DONE]`.
    """
    state = state_of(http_request)
    request = await read_request(http_request, state.settings, ImagesRequest)
    deployment = deployment_of(http_request, state, request.model)
    native = _native(request, deployment.model.manifest)
    return await _respond(http_request, state, request, generate_order(state, native, deployment, JSON))


async def edit_image(http_request: Request) -> Response:
    """Generate pictures from a picture: all of it changes according to `strength`, or only its transparent part.

    The body is a form or JSON. The events of a stream are image_edit.partial_image and image_edit.completed.
    """
    state = state_of(http_request)
    # In one expression: a variable would keep the uploads in memory while the request waits.
    return await _respond(
        http_request,
        state,
        *_edit_ordered(http_request, state, await read_request(http_request, state.settings, EditRequest, pictures=2)),
    )


async def list_v1_models(http_request: Request) -> Response:
    """List every model that is served, in OpenAI's format."""
    served = state_of(http_request).engine.deployments.values()
    return JSONResponse({"object": "list", "data": [_card(each.model.manifest) for each in served]}, headers=_NO_STORE)


async def retrieve_v1_model(http_request: Request) -> Response:
    """One model, in OpenAI's format."""
    deployment = deployment_of(http_request, state_of(http_request), http_request.path_params["model"])
    return JSONResponse(_card(deployment.model.manifest), headers=_NO_STORE)


def _edit_ordered(http_request: Request, state: State, request: _EditRequest) -> tuple[_EditRequest, Order]:
    """``request`` without its files, and its order. A function, so that the handler does not keep the files."""
    deployment = deployment_of(http_request, state, request.model)
    native = _native(request, deployment.model.manifest)
    return without(request, bytes), edit_order(state, native, request.image, request.mask, deployment)


async def _respond(http_request: Request, state: State, request: _ImagesRequest, order: Order) -> Response:
    if not request.stream:
        return await answer(http_request, state, order, partial(_body, request))
    job = await start_job(http_request, state, _filmed(request, order), live=True)
    return EventStream(job, own=job, write=partial(_write_event, request, job), closing=b"data: [DONE]\n\n")


def _native(request: _ImagesRequest, manifest: Manifest) -> GenerateRequest:
    """``request`` as a native request. Raises BadRequest, InvalidField."""
    if request.response_format == "url":
        raise BadRequest(
            "response_format: pictures are not stored, so they have no URL. Allowed: b64_json.",
            [FieldProblem("#/response_format", "is not supported: pictures are not stored", "b64_json")],
        )
    if request.output_compression is not None and request.output_format == "png":
        raise InvalidField.of("output_compression", "has no effect in png", "leave it out; or webp, jpeg")
    if request.partial_images and not request.stream:
        raise InvalidField.of("partial_images", "needs a stream", "stream: true; or 0")
    size = _size(request.size, manifest)
    native = request.native(**size)
    if native.class_label is None:
        return request.native(**size, **prompt_fields(request.prompt, manifest))
    if request.prompt.strip() and not manifest.reads_prompts:
        raise InvalidField.of("class_label", "excludes a prompt: both set the class", "one of the two; prompt empty")
    return native


def _size(size: str, manifest: Manifest) -> dict[str, JsonValue]:
    if size == "auto":
        return {}
    found = _SIZE.fullmatch(size)
    return size_fields("size", *((int(found[1]), int(found[2])) if found else (0, 0)), manifest)


def _filmed(request: _ImagesRequest, order: Order) -> Order:
    """``order`` with at most partial_images previews of each picture."""
    steps, most = order.rows[0].plan.steps, request.partial_images
    every = math.ceil(steps / most) if most else 0
    return order._replace(asked=order.asked.model_copy(update={"preview_every": every, "preview_kind": "x0"}))


def _body(request: _ImagesRequest, order: Order, output: Output, http_request: Request) -> bytes:  # noqa: ARG001
    data = [
        _shown(request, order, index, picture) | {"revised_prompt": _prompt(order, index)}
        for index, picture in enumerate(output.pictures)
    ]
    warnings = {"warnings": order.warnings} if order.warnings else {}
    return to_json({"created": int(time.time()), "data": data, **_about(request, order), **warnings})


def _prompt(order: Order, index: int) -> str:
    """What a picture shows: its prompt, or its class."""
    prompt = order.params.get("prompt")
    return prompt if isinstance(prompt, str) else class_name(order, index) or ""


def _write_event(request: _ImagesRequest, job: PictureJob, event: Event) -> bytes:
    """``event`` in OpenAI's format: previews, pictures and errors; empty for all others."""
    order, payload = job.work, event.payload
    if event.name == "error":
        return b"event: error\ndata: %s\n\n" % event_json(job, event)
    if isinstance(payload, PreviewEvent):
        preview = payload.preview
        film = order.rows[preview.row].film
        assert film is not None
        picture = {
            "b64_json": _base64(request, images.enlarge(payload.picture, order.asked.scale)),
            "partial_image_index": preview.step // film.every,
            "index": preview.row,
        }
        kind = "partial_image"
    elif isinstance(payload, ImageEvent):
        picture = _shown(request, order, payload.row, payload.picture) | {"index": payload.row}
        kind = "completed"
    else:
        return b""
    name = f"{request.event}.{kind}"
    data = {"type": name, **picture, "created_at": int(time.time()), **_about(request, order)}
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(data))


def _shown(request: _ImagesRequest, order: Order, index: int, picture: images.Pixels) -> dict[str, Any]:
    """One picture with its seed."""
    if request.output_format == "png":
        encoded = base64.b64encode(picture_png(order, index, picture)).decode()
    else:
        encoded = _base64(request, images.enlarge(picture, order.asked.scale))
    return {"b64_json": encoded, "seed": order.seeds[index]}


def _base64(request: _ImagesRequest, picture: images.Pixels) -> str:
    quality = request.output_compression
    if request.output_format == "png":
        file = images.encode_png(picture)
    elif request.output_format == "webp":
        file = images.encode_webp(picture, quality)
    else:
        file = images.encode_jpeg(picture) if quality is None else images.encode_jpeg(picture, quality)
    return base64.b64encode(file).decode()


def _about(request: _ImagesRequest, order: Order) -> dict[str, str]:
    """The fields that all pictures of a response share."""
    _, height, width = order.image_shape
    scale = order.asked.scale
    return {
        "background": "opaque",
        "output_format": request.output_format,
        "quality": request.quality,
        "size": f"{width * scale}x{height * scale}",
    }


def _card(manifest: Manifest) -> dict[str, Any]:
    day = datetime.fromisoformat(manifest.created).replace(tzinfo=UTC)
    return {"id": manifest.name, "object": "model", "created": int(day.timestamp()), "owned_by": "genserve"}


_PICTURE = {
    "type": "object",
    "required": ["b64_json", "seed", "revised_prompt"],
    "properties": {
        "b64_json": {"type": "string"},
        "seed": {"type": ["integer", "null"]},
        "revised_prompt": {
            "type": "string",
            "description": "The prompt, or the class of the picture; empty for no class.",
        },
    },
}
_IMAGES = {
    "type": "object",
    "required": ["created", "data"],
    "properties": {
        "created": {"type": "integer"},
        "data": {"type": "array", "items": _PICTURE},
        **{name: {"type": "string"} for name in ("background", "output_format", "quality", "size")},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
}
_CARD = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
}
_CARDS = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _CARD}},
}


def _operation(handler: Handler, body: type[DialectRequest], *errors: int) -> Operation:
    headers = (*IMAGE_HEADERS, *(name for name in EVENT_HEADERS if name not in IMAGE_HEADERS))
    return Operation(
        handler,
        "OpenAI",
        {200: Answer("The images, or events.", {JSON: _IMAGES, EVENT_STREAM: EVENT}, headers)},
        (*BODY_ERRORS, *errors, *COMPUTE_ERRORS),
        body=[body],
    )


_NO_CACHE = ["Cache-Control"]

ROUTES = (
    route("/v1/images/generations", {"POST": _operation(create_image, ImagesRequest)}),
    route("/v1/images/edits", {"POST": _operation(edit_image, EditRequest, 415)}),
    route(
        "/v1/models",
        {"GET": Operation(list_v1_models, "OpenAI", {200: Answer("The models.", {JSON: _CARDS}, _NO_CACHE)})},
    ),
    route(
        "/v1/models/{model}",
        {"GET": Operation(retrieve_v1_model, "OpenAI", {200: Answer("The model.", {JSON: _CARD}, _NO_CACHE)}, [404])},
    ),
)
