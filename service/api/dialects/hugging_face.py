"""What Hugging Face's InferenceClient sends to a model's address: {"inputs", "parameters"} on POST /generate/{model}.

It is told by its shape, and becomes a native request; the answers are the native ones.
"""

import base64
import binascii
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue
from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.dialects.native import DialectRequest, class_of_prompt, scale_of
from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Operation
from service.api.request.body import (
    check_json_size,
    check_no_query,
    echoed,
    off_loop,
    parse_body,
    parse_json,
    read_body,
)
from service.api.request.negotiation import JSON
from service.api.request.schemas import GenerateRequest
from service.api.request.uploads import PICTURE_FIELD
from service.api.state import deployment_of, state_of
from service.contract.manifest import Manifest
from service.decoding.strip import sniff
from service.errors import InvalidField
from service.settings import Settings

#: Names of parameters that are called otherwise in /generate.
_NATIVE_NAMES = {"num_inference_steps": "steps", "scheduler": "solver", "negative_prompt": "negative_class"}

_Pixels = Annotated[int, Field(ge=1)]


class _Size(DialectRequest):
    width: _Pixels
    height: _Pixels


class _Parameters(DialectRequest):
    """Those that are no fields of /generate; the others are, some under another name."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = Field(default=None, description="The class, where inputs are a picture.")
    width: _Pixels | None = None
    height: _Pixels | None = None
    target_size: _Size | None = None

    def others(self) -> dict[str, JsonValue]:
        """The others, by their names in /generate. Raises InvalidField if one is there under both of its names."""
        fields: dict[str, JsonValue] = {}
        for name, value in (self.model_extra or {}).items():
            native = _NATIVE_NAMES.get(name, name)
            if name == "negative_prompt" and isinstance(value, str) and not value.strip():
                continue
            if native in fields:
                raise InvalidField.of(f"parameters/{echoed(name)}", f"was given as {native} too", "one of the two")
            fields[native] = value
        return fields


class HuggingFaceRequest(DialectRequest):
    """The body that InferenceClient sends."""

    inputs: str = Field(description="Name or number of a class, empty for none; or a picture as base64.")
    parameters: _Parameters = Field(
        default=_Parameters(),
        description="width and height, or target_size; prompt, where inputs are a picture; num_inference_steps, "
        "scheduler, negative_prompt, and the fields of /generate.",
    )
    options: dict[str, JsonValue] | None = Field(
        default=None, description="Has no effect: use_cache, wait_for_model and the like of the hosted service."
    )


async def read_generate(request: Request, settings: Settings, manifest: Manifest, pictures: int) -> GenerateRequest:
    """The body of POST /generate/{model} in either shape, with up to so many ``pictures`` in it.

    Raises as ``read_request``, and BadRequest where the prompt or the size is none of the model's.
    """
    body = await read_body(request, settings, pictures)
    return await off_loop(settings, body, _parse, request, settings, manifest, body)


async def get_generate_health(request: Request) -> Response:
    """200 when the model can be asked: what InferenceClient.health_check looks at."""
    model = deployment_of(request, state_of(request), request.path_params["model"]).model
    return JSONResponse({"model": model.name, "status": "ready"}, headers={"Cache-Control": "no-store"})


_READY = {200: Answer("The model can be used.", {JSON: {"type": "object"}}, ["Cache-Control"])}

ROUTES = (route("/generate/{model}/health", {"GET": Operation(get_generate_health, "Hugging Face", _READY, [404])}),)


def _parse(request: Request, settings: Settings, manifest: Manifest, body: bytes) -> GenerateRequest:
    if not _is_theirs(body, settings.max_body_bytes):
        return parse_body(GenerateRequest, request, settings, body)
    check_no_query(request)
    return _native(parse_json(HuggingFaceRequest, body), manifest)


def _is_theirs(body: bytes, max_json_bytes: int) -> bool:
    """Whether ``body`` is JSON with inputs; few others have the word at all. Raises BodyTooLarge."""
    if body.lstrip()[:1] != b"{" or b'"inputs"' not in body:
        return False
    check_json_size(body, max_json_bytes)
    try:
        return "inputs" in from_json(body)
    except ValueError:
        return False


def _native(asked: HuggingFaceRequest, manifest: Manifest) -> GenerateRequest:
    """``asked`` in the words of /generate. Raises BadRequest, InvalidField."""
    fields, scale = asked.parameters.others(), _scale(asked.parameters, manifest)
    if scale and "scale" in fields:
        raise InvalidField.of("parameters/scale", "says how large they are, and so does their size", "one of the two")
    fields |= scale
    prompt = asked.inputs
    if _is_picture(asked.inputs):
        if PICTURE_FIELD in fields:
            raise InvalidField.of("parameters/image", "is a picture, and so are inputs", "one of the two")
        fields[PICTURE_FIELD] = asked.inputs
        prompt = asked.parameters.prompt or ""
    elif asked.parameters.prompt is not None:
        raise InvalidField.of("parameters/prompt", "says which class, and so does inputs", "leave it out")
    if "class_label" not in fields:
        fields["class_label"] = class_of_prompt(prompt, manifest)
    elif prompt.strip():
        raise InvalidField.of("parameters/class_label", "says which class, and so does the prompt", "one of the two")
    return parse_json(GenerateRequest, to_json(fields))


def _is_picture(inputs: str) -> bool:
    """Whether ``inputs`` are a picture rather than a prompt, by the first bytes that they would mean."""
    try:
        return inputs.startswith("data:") or sniff(base64.b64decode(inputs[:32], validate=True)) is not None
    except (binascii.Error, ValueError):
        return False


def _scale(asked: _Parameters, manifest: Manifest) -> dict[str, JsonValue]:
    """By what to enlarge, where a size is asked for; a side that is not told follows from the other."""
    _, own_height, own_width = manifest.image_shape
    width, height = asked.width, asked.height
    if asked.target_size is not None:
        if width is not None or height is not None:
            raise InvalidField.of("parameters/target_size", "says the size, and so do others", "one of the two")
        width, height = asked.target_size.width, asked.target_size.height
    if width is None and height is None:
        return {}
    width, height = width or (height or 0) * own_width // own_height, height or (width or 0) * own_height // own_width
    return {"scale": scale_of("parameters/width", width, height, manifest)}
