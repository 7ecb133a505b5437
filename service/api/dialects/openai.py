"""OpenAI's Images API and its list of models, for the clients that speak it: /v1.

Of its fields those are taken that have a meaning here, with the values that are true here; the others are refused.
"""

import base64
import math
import re
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service import images
from service.api.dialects.edits import edit_order
from service.api.dialects.native import SAMPLING, DialectRequest, class_of_prompt, scale_of, with_native
from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Handler, Operation
from service.api.order import Made, Order, without
from service.api.request.body import read_request
from service.api.request.negotiation import EVENT_STREAM, JSON
from service.api.request.schemas import GenerateRequest
from service.api.request.uploads import Upload
from service.api.response.answers import answer
from service.api.response.documented import BODY_ERRORS, COMPUTE_ERRORS, EVENT, EVENT_HEADERS, IMAGE_HEADERS
from service.api.response.event_stream import EventStream, event_json
from service.api.response.job_runner import PreviewEvent, Shown, start_job
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

    #: How the events of a stream are called.
    event: ClassVar[str] = "image_generation"

    model: str = Field(max_length=64, description="Name of a model.", examples=["ddpm"])
    prompt: str = Field(
        max_length=1000,
        description="Name or number of a class: the models read no text. Empty: no class.",
        examples=["2"],
    )
    size: str = Field(
        default="auto",
        max_length=16,
        description="auto, the model's own size, or that times a whole number, as 224x224: pixels become squares.",
    )
    response_format: Literal["b64_json", "url"] = Field(
        default="b64_json", description="b64_json; url is refused, for pictures are not kept."
    )
    output_format: Literal["png", "webp", "jpeg"] = "png"
    output_compression: int | None = Field(
        default=None, ge=1, le=100, description="Quality of webp and jpeg. Absent: webp without any loss, jpeg at 90."
    )
    stream: bool | None = Field(default=None, description="Answer with events.")
    partial_images: int | None = Field(
        default=None, ge=0, le=1000, description="Most previews of each picture in a stream. Absent: none."
    )
    background: Literal["auto", "opaque"] = Field(default="auto", description="Pictures are opaque.")
    quality: Literal["auto", "standard"] = Field(default="auto", description="There is one; steps decides it.")
    moderation: Literal["auto", "low"] = Field(default="auto", description="Nothing is moderated.")
    user: str | None = Field(default=None, max_length=512, description="Has no effect.")
    safety_identifier: str | None = Field(default=None, max_length=512, description="Has no effect.")


class _EditRequest(_ImagesRequest):
    """The body of POST /v1/images/edits."""

    event: ClassVar[str] = "image_edit"

    image: Upload = Field(description="The picture to begin from: a file of a form (image or image[]), or base64.")
    mask: Upload | None = Field(
        default=None,
        description="A picture whose transparent part is made anew, the rest kept. Absent: image's own, if it has one.",
    )


ImagesRequest = with_native(_ImagesRequest, "n", *SAMPLING)
EditRequest = with_native(_EditRequest, "n", *SAMPLING, "strength")


async def create_image(request: Request) -> Response:
    """Make pictures of a class, with OpenAI's fields and those of /generate that decide pictures.

    With `stream` the answer is events: image_generation.partial_image, image_generation.completed for each picture, and
    `[DONE]`.
    """
    state = state_of(request)
    asked = await read_request(request, state.settings, ImagesRequest)
    deployment = deployment_of(request, state, asked.model)
    native = _native(asked, deployment.model.manifest)
    return await _respond(request, state, asked, generate_order(state, native, deployment, JSON))


async def edit_image(request: Request) -> Response:
    """Make pictures from a picture: all of it anew as far as `strength` says, or what a mask leaves transparent.

    As a form, or as JSON. The events of a stream are image_edit.partial_image and image_edit.completed.
    """
    state = state_of(request)
    # In one expression: a variable would keep the uploads for as long as the request waits.
    return await _respond(
        request,
        state,
        *_edit_ordered(request, state, await read_request(request, state.settings, EditRequest, pictures=2)),
    )


async def list_v1_models(request: Request) -> Response:
    """Every model that is served, as OpenAI's clients list them."""
    served = state_of(request).engine.deployments.values()
    return JSONResponse({"object": "list", "data": [_card(each.model.manifest) for each in served]}, headers=_NO_STORE)


async def retrieve_v1_model(request: Request) -> Response:
    """One model, as OpenAI's clients see it."""
    deployment = deployment_of(request, state_of(request), request.path_params["model"])
    return JSONResponse(_card(deployment.model.manifest), headers=_NO_STORE)


def _edit_ordered(request: Request, state: State, asked: _EditRequest) -> tuple[_EditRequest, Order]:
    """An edit without its files, and what to compute. A function, so that no handler holds the files as it waits."""
    deployment = deployment_of(request, state, asked.model)
    native = _native(asked, deployment.model.manifest)
    return without(asked, bytes), edit_order(state, native, asked.image, asked.mask, deployment)


async def _respond(request: Request, state: State, asked: _ImagesRequest, order: Order) -> Response:
    if not asked.stream:
        return await answer(request, state, order, partial(_body, asked))
    job = start_job(request, state, _filmed(asked, order), live=True)
    return EventStream(job, own=True, write=partial(_write_event, asked), closing=b"data: [DONE]\n\n")


def _native(asked: _ImagesRequest, manifest: Manifest) -> GenerateRequest:
    """``asked`` in the words of /generate. Raises BadRequest, InvalidField."""
    if asked.response_format == "url":
        raise BadRequest(
            "response_format: pictures are not kept, so there is no address to give. Allowed: b64_json.",
            [FieldProblem("#/response_format", "has no address to give", "b64_json")],
        )
    if asked.output_compression is not None and asked.output_format == "png":
        raise InvalidField.of("output_compression", "means nothing to png", "leave it out; or webp, jpeg")
    if asked.partial_images and not asked.stream:
        raise InvalidField.of("partial_images", "is for a stream", "stream: true; or 0")
    native = asked.native(scale=_scale(asked.size, manifest))
    if native.class_label is None:
        return native.model_copy(update={"class_label": class_of_prompt(asked.prompt, manifest)})
    if asked.prompt.strip():
        raise InvalidField.of("class_label", "says which class, and so does prompt", "one of the two; prompt empty")
    return native


def _scale(size: str, manifest: Manifest) -> int:
    if size == "auto":
        return 1
    found = _SIZE.fullmatch(size)
    return scale_of("size", *((int(found[1]), int(found[2])) if found else (0, 0)), manifest)


def _filmed(asked: _ImagesRequest, order: Order) -> Order:
    """``order`` with as many previews as partial_images allows."""
    steps, most = order.rows[0].plan.steps, asked.partial_images
    every = math.ceil(steps / most) if most else 0
    return order._replace(asked=order.asked.model_copy(update={"preview_every": every, "preview_kind": "x0"}))


def _body(asked: _ImagesRequest, order: Order, made: Made, request: Request) -> bytes:  # noqa: ARG001
    data = [
        _shown(asked, order, index, picture) | {"revised_prompt": class_name(order, index) or ""}
        for index, picture in enumerate(made.pictures)
    ]
    warnings = {"warnings": order.warnings} if order.warnings else {}
    return to_json({"created": int(time.time()), "data": data, **_about(asked, order), **warnings})


def _write_event(asked: _ImagesRequest, job: PictureJob, event: Event) -> bytes:
    """``event`` as OpenAI's clients know it: previews, pictures and errors; nothing for the others."""
    order, payload = job.work, event.payload
    if event.name == "error":
        return b"event: error\ndata: %s\n\n" % event_json(job, event)
    if isinstance(payload, PreviewEvent):
        preview = payload.preview
        film = order.rows[preview.row].film
        assert film is not None
        picture = {
            "b64_json": _base64(asked, images.enlarge(payload.picture, order.asked.scale)),
            "partial_image_index": preview.step // film.every,
            "index": preview.row,
        }
        kind = "partial_image"
    elif isinstance(payload, Shown):
        picture = _shown(asked, order, payload.row, payload.picture) | {"index": payload.row}
        kind = "completed"
    else:
        return b""
    name = f"{asked.event}.{kind}"
    data = {"type": name, **picture, "created_at": int(time.time()), **_about(asked, order)}
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(data))


def _shown(asked: _ImagesRequest, order: Order, index: int, picture: images.Pixels) -> dict[str, Any]:
    """One of the pictures, with the seed that makes it again."""
    if asked.output_format == "png":
        encoded = base64.b64encode(picture_png(order, index, picture)).decode()
    else:
        encoded = _base64(asked, images.enlarge(picture, order.asked.scale))
    return {"b64_json": encoded, "seed": order.seeds[index]}


def _base64(asked: _ImagesRequest, picture: images.Pixels) -> str:
    quality = asked.output_compression
    if asked.output_format == "png":
        file = images.encode_png(picture)
    elif asked.output_format == "webp":
        file = images.encode_webp(picture, quality)
    else:
        file = images.encode_jpeg(picture) if quality is None else images.encode_jpeg(picture, quality)
    return base64.b64encode(file).decode()


def _about(asked: _ImagesRequest, order: Order) -> dict[str, str]:
    """What all pictures of an answer have in common."""
    _, height, width = order.model.manifest.image_shape
    scale = order.asked.scale
    return {
        "background": "opaque",
        "output_format": asked.output_format,
        "quality": asked.quality,
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
        "revised_prompt": {"type": "string", "description": "The class that was drawn; empty for none."},
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
