"""Hugging Face's InferenceClient: bodies {"inputs", "parameters"} on POST /generate/{model}.

They are recognised by the key "inputs" and translated to native requests; the responses are native.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue
from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.dialects.native import DialectRequest, prompt_fields, size_fields
from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Operation
from service.api.request.body import check_json_size, check_no_query, echoed, parse_json
from service.api.request.negotiation import JSON
from service.api.request.schemas import GenerateRequest
from service.api.request.uploads import PICTURE_FIELD
from service.api.state import deployment_of, state_of
from service.contract.manifest import Manifest
from service.decoding.strip import sniff
from service.errors import InvalidField
from service.settings import Settings

#: Parameters with another name in /generate.
_NATIVE_NAMES = {"num_inference_steps": "steps", "scheduler": "solver"}
#: Of models without prompts.
_CLASS_NAMES = {**_NATIVE_NAMES, "negative_prompt": "negative_class"}

_Pixels = Annotated[int, Field(ge=1)]


class _Size(DialectRequest):
    width: _Pixels
    height: _Pixels


class _Parameters(DialectRequest):
    """Those that are not fields of /generate; all others are, some under another name."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = Field(default=None, description="The prompt or class, where inputs is a picture.")
    width: _Pixels | None = None
    height: _Pixels | None = None
    target_size: _Size | None = None

    def others(self, names: Mapping[str, str]) -> dict[str, JsonValue]:
        """The other parameters by their ``names`` in /generate. Raises InvalidField where both names of one are set."""
        fields: dict[str, JsonValue] = {}
        for name, value in (self.model_extra or {}).items():
            native = names.get(name, name)
            if native == "negative_class" and isinstance(value, str) and not value.strip():
                continue
            if native in fields:
                raise InvalidField.of(f"parameters/{echoed(name)}", f"is the same field as {native}", "one of the two")
            fields[native] = value
        return fields


class HuggingFaceRequest(DialectRequest):
    """The body that InferenceClient sends."""

    inputs: str = Field(
        description="A prompt, or a picture in base64. For models without prompts: name or index of a class, empty for "
        "no class."
    )
    parameters: _Parameters = Field(
        default=_Parameters(),
        description="width and height, or target_size; prompt, where inputs is a picture; num_inference_steps, "
        "scheduler, negative_prompt, and the fields of /generate.",
    )
    options: dict[str, JsonValue] | None = Field(
        default=None, description="No effect: options of the hosted service, such as use_cache and wait_for_model."
    )


def translate(request: Request, settings: Settings, manifest: Manifest, body: bytes) -> GenerateRequest | None:
    """The native request that ``body`` means; None where it is not in this format.

    Raises as ``parse_json``, and BadRequest where the model has no such class or size.
    """
    if not _is_theirs(body, settings.max_body_bytes):
        return None
    check_no_query(request)
    return _native(parse_json(HuggingFaceRequest, body), manifest)


async def get_generate_health(request: Request) -> Response:
    """200 when the model is ready: for InferenceClient.health_check."""
    model = deployment_of(request, state_of(request), request.path_params["model"]).model
    return JSONResponse({"model": model.name, "status": "ready"}, headers={"Cache-Control": "no-store"})


_READY = {200: Answer("The model can be used.", {JSON: {"type": "object"}}, ["Cache-Control"])}

ROUTES = (route("/generate/{model}/health", {"GET": Operation(get_generate_health, "Hugging Face", _READY, [404])}),)


def _is_theirs(body: bytes, max_json_bytes: int) -> bool:
    """Whether ``body`` is a JSON object with the key "inputs". Raises BodyTooLarge."""
    # Bodies without the word skip the parser.
    if body.lstrip()[:1] != b"{" or b'"inputs"' not in body:
        return False
    check_json_size(body, max_json_bytes)
    try:
        return "inputs" in from_json(body)
    except ValueError:
        return False


def _native(theirs: HuggingFaceRequest, manifest: Manifest) -> GenerateRequest:
    """``theirs`` as a request to /generate. Raises BadRequest, InvalidField."""
    names = _NATIVE_NAMES if manifest.reads_prompts else _CLASS_NAMES
    fields, size = theirs.parameters.others(names), _size(theirs.parameters, manifest)
    if "scale" in size and "scale" in fields:
        raise InvalidField.of("parameters/scale", "excludes width, height and target_size", "one of them")
    fields |= size
    prompt = theirs.inputs
    if _is_picture(theirs.inputs):
        if PICTURE_FIELD in fields:
            raise InvalidField.of("parameters/image", "excludes a picture in inputs", "one of the two")
        fields[PICTURE_FIELD] = theirs.inputs
        prompt = theirs.parameters.prompt or ""
    elif theirs.parameters.prompt is not None:
        raise InvalidField.of("parameters/prompt", "has no effect: inputs is the prompt", "leave it out")
    if manifest.reads_prompts or "class_label" not in fields:
        fields |= prompt_fields(prompt, manifest)
    elif prompt.strip():
        raise InvalidField.of("parameters/class_label", "excludes a prompt: both set the class", "one of the two")
    return parse_json(GenerateRequest, to_json(fields))


def _is_picture(inputs: str) -> bool:
    """Whether ``inputs`` is a picture rather than a prompt: a data URI, or base64 that starts like a picture."""
    try:
        return inputs.startswith("data:") or sniff(base64.b64decode(inputs[:32], validate=True)) is not None
    except (binascii.Error, ValueError):
        return False


def _size(theirs: _Parameters, manifest: Manifest) -> dict[str, JsonValue]:
    """The fields for the requested size, if any; a missing side follows from the other. Raises InvalidField."""
    _, own_height, own_width = manifest.image_shape
    width, height = theirs.width, theirs.height
    if theirs.target_size is not None:
        if width is not None or height is not None:
            raise InvalidField.of("parameters/target_size", "excludes width and height", "one of the two")
        width, height = theirs.target_size.width, theirs.target_size.height
    if width is None and height is None:
        return {}
    width, height = width or (height or 0) * own_width // own_height, height or (width or 0) * own_height // own_width
    return size_fields("parameters/width", width, height, manifest)
