"""The Open Inference Protocol, version 2, over HTTP, with Triton's binary tensors: /v2.

Tensors of /infer are the seeds and the classes of pictures, and the pictures; all else about them is a parameter.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.answers import answer
from service.api.body import parse_json, read_body
from service.api.dialects.native import DialectRequest, with_native
from service.api.docs import described, path_parameters, refusals, request_body, success
from service.api.endpoint import route
from service.api.generate import generate_order
from service.api.negotiation import JSON
from service.api.rendering import Made, Order
from service.api.resolve import NO_CLASS
from service.api.schemas import GenerateRequest
from service.api.state import State, model_of, state_of
from service.contract.manifest import Manifest
from service.engine.model import Model
from service.errors import BadRequest, BodyTooLarge, InvalidField, UnknownVersion
from service.settings import Settings

NAME = "genserve"
BINARY = "application/octet-stream"
#: How many bytes of a body are JSON; tensors follow, one after another, little end first.
HEAD_LENGTH = "Inference-Header-Content-Length"

#: zlib's number for "gzip or zlib, as the first bytes say", the two that HTTP calls gzip and deflate.
_GZIP_OR_ZLIB = 47
_NO_STORE = {"Cache-Control": "no-store"}


class _InputParameters(DialectRequest):
    binary_data_size: int | None = Field(default=None, ge=0, description="Bytes of this tensor behind the JSON.")


class _Input(DialectRequest):
    name: Literal["seed", "class_label"]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=1)]
    datatype: Literal["INT64"]
    parameters: _InputParameters = _InputParameters()
    data: list[int] | None = Field(default=None, description="Absent where the tensor is binary.")


class _OutputParameters(DialectRequest):
    binary_data: bool = False


class _Output(DialectRequest):
    name: Literal["images"]
    parameters: _OutputParameters = _OutputParameters()


class _Parameters(DialectRequest):
    binary_data_output: bool = False


_PARAMETERS = with_native(_Parameters, "n", "steps", "solver", "guidance_scale", "timeout_ms")


class InferRequest(DialectRequest):
    """The body of POST /v2/models/{model}/infer."""

    id: str | None = Field(default=None, max_length=128, description="Given back.")
    parameters: _PARAMETERS = Field(  # type: ignore[valid-type]
        default=_PARAMETERS(), description="How the pictures are made, as in /generate."
    )
    inputs: list[_Input] = Field(
        default=[],
        max_length=2,
        description="seed: of each picture. class_label: of each picture; -1 is no class. Absent: as in /generate.",
    )
    outputs: list[_Output] = Field(default=[], max_length=1, description="images; it is there without being named.")

    @property
    def binary(self) -> bool:
        """Whether the pictures are to be bytes behind the JSON."""
        wanted = self.outputs[0].parameters if self.outputs else _OutputParameters()
        own: _Parameters = self.parameters
        return wanted.binary_data if "binary_data" in wanted.model_fields_set else own.binary_data_output


async def post_infer(request: Request) -> Response:
    """Make pictures of seeds and classes, as tensors.

    A body may have binary tensors (Inference-Header-Content-Length), and be compressed (gzip or deflate); its
    Content-Type means nothing.
    """
    state = state_of(request)
    model = _model(request, state)
    head, binary = _split(request, await _read(request, state.settings))
    asked = parse_json(InferRequest, head)
    order = generate_order(_native(asked, binary), model, JSON, state.settings)
    if not asked.binary:
        return await answer(request, state, order, partial(_json_tensors, asked))
    told = to_json(_answer_head(asked, order, {"parameters": {"binary_data_size": math.prod(_shape(order))}}))
    response = await answer(request, state, order._replace(media=BINARY), partial(_binary_tensors, told))
    response.raw_headers.append((HEAD_LENGTH.lower().encode(), b"%d" % len(told)))
    return response


async def get_server(request: Request) -> Response:
    """What this server is, and which extensions of the protocol it has."""
    extensions = ["binary_tensor_data", "model_configuration", "statistics", "model_repository"]
    return _json({"name": NAME, "version": request.app.version, "extensions": extensions})


async def get_server_live(request: Request) -> Response:
    """200 while the engine runs."""
    alive = state_of(request).engine.is_alive()
    return _json({"live": alive}, 200 if alive else 503)


async def get_server_ready(request: Request) -> Response:
    """200 when every model can be asked."""
    ready = state_of(request).registry.ready
    return _json({"ready": ready}, 200 if ready else 503)


async def get_model_metadata(request: Request) -> Response:
    """A model's tensors."""
    manifest = _model(request, state_of(request)).manifest
    return _json(
        {
            "name": manifest.name,
            "versions": [manifest.version],
            "platform": "pytorch_torchscript",
            "inputs": [{"name": name, "datatype": "INT64", "shape": [-1]} for name in ("seed", "class_label")],
            "outputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, *_picture_shape(manifest)]}],
        }
    )


async def get_model_ready(request: Request) -> Response:
    """200 when the model can be asked."""
    model = _model(request, state_of(request))
    return _json({"name": model.name, "ready": True})


async def get_model_config(request: Request) -> Response:
    """A model's tensors, as Triton's configuration has them."""
    manifest = _model(request, state_of(request)).manifest
    optional = [
        {"name": name, "data_type": "TYPE_INT64", "dims": [-1], "optional": True} for name in ("seed", "class_label")
    ]
    pictures = {"name": "images", "data_type": "TYPE_UINT8", "dims": [-1, *_picture_shape(manifest)]}
    return _json(
        {
            "name": manifest.name,
            "platform": "pytorch_torchscript",
            "max_batch_size": 0,  # in Triton's sense: the first dimension is part of the shapes
            "input": optional,
            "output": [pictures],
        }
    )


async def get_model_stats(request: Request) -> Response:
    """How many pictures a model made, in how many network calls, and nanoseconds of each stage."""
    state = state_of(request)
    return _json({"model_stats": [_stats(state, _model(request, state).manifest)]})


async def get_stats(request: Request) -> Response:
    """The same of every model."""
    state = state_of(request)
    return _json({"model_stats": [_stats(state, each.model.manifest) for each in state.registry.served.values()]})


async def post_repository_index(request: Request) -> Response:
    """Every model, and why those that are not served are not; with `{"ready": true}` only those that are."""
    state = state_of(request)
    asked = parse_json(RepositoryIndexRequest, await read_body(request, state.settings))
    ready = [
        {"name": name, "version": each.model.manifest.version, "state": "READY", "reason": ""}
        for name, each in state.registry.served.items()
    ]
    refused = [
        {"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason}
        for name, reason in state.registry.refused.items()
    ]
    return _json(ready if asked.ready else ready + refused)


class RepositoryIndexRequest(DialectRequest):
    """The body of POST /v2/repository/index."""

    ready: bool = Field(default=False, description="Only models that are served.")


def _model(request: Request, state: State) -> Model:
    """The model of the path, in its version if it names one. Raises as ``model_of``, and UnknownVersion."""
    model = model_of(request, state, request.path_params["model"])
    version = request.path_params.get("version", model.manifest.version)
    if version != model.manifest.version:
        raise UnknownVersion(model.name, model.manifest.version)
    return model


async def _read(request: Request, settings: Settings) -> bytes:
    """The body, decompressed. Raises as ``read_body``, and BadRequest."""
    body = await read_body(request, settings)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise BadRequest("A body comes as it is, or compressed by gzip or deflate.")
    unpacker = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
    try:
        unpacked = unpacker.decompress(body, settings.max_body_bytes + 1)
    except zlib.error:
        raise BadRequest(f"The body is not compressed by {encoding}.") from None
    if len(unpacked) > settings.max_body_bytes:
        raise BodyTooLarge(settings.max_body_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest(f"The body does not end where {encoding} does.")
    return unpacked


def _split(request: Request, body: bytes) -> tuple[bytes, bytes]:
    """JSON, and the tensors behind it. Raises BadRequest."""
    told = request.headers.get(HEAD_LENGTH)
    if told is None:
        return body, b""
    if not (told.isascii() and told.isdigit() and len(told) < 10 and int(told) <= len(body)):
        raise BadRequest(f"{HEAD_LENGTH} is the number of bytes of JSON, at most the body's {len(body)}.")
    return body[: int(told)], body[int(told) :]


def _native(asked: InferRequest, binary: bytes) -> GenerateRequest:
    """``asked`` in the words of /generate. Raises InvalidField."""
    values = _values(asked.inputs, binary)
    fields: dict[str, object] = {}
    if "seed" in values:
        fields["seeds"] = values["seed"]
    if "class_label" in values:
        fields["class_label"] = [NO_CLASS if label == -1 else label for label in values["class_label"]]
    own: DialectRequest = asked.parameters
    given = own.model_dump(include=set(own.shared), exclude_unset=True)
    if "seed" not in values and "class_label" in values:
        given.setdefault("n", len(values["class_label"]))
    return parse_json(GenerateRequest, to_json(given | fields))


def _values(inputs: Sequence[_Input], binary: bytes) -> dict[str, list[int]]:
    """What is in the tensors. Raises InvalidField."""
    found: dict[str, list[int]] = {}
    at = 0
    for index, tensor in enumerate(inputs):
        size, place = tensor.parameters.binary_data_size, f"inputs/{index}"
        if tensor.name in found:
            raise InvalidField.of(place, f"{tensor.name} was given more than once")
        if (size is None) == (tensor.data is None):
            raise InvalidField.of(place, "has its numbers in data or behind the JSON", "one of the two")
        if size is None:
            numbers = tensor.data or []
        elif size % 8 or at + size > len(binary):
            raise InvalidField.of(place, f"has no {size} bytes behind the JSON", "eight for each number")
        else:
            numbers = np.frombuffer(binary[at : at + size], "<i8").tolist()
            at += size
        if [len(numbers)] != tensor.shape:
            raise InvalidField.of(f"{place}/shape", "is not the number of its numbers", f"[{len(numbers)}]")
        found[tensor.name] = numbers
    if at != len(binary):
        raise InvalidField.of("inputs", f"leave {len(binary) - at} bytes behind the JSON that are no tensor's")
    return found


def _picture_shape(manifest: Manifest) -> tuple[int, int, int]:
    """(height, width, channel)"""
    channels, height, width = manifest.image_shape
    return height, width, channels


def _shape(order: Order) -> tuple[int, ...]:
    """(n, height, width, channel)"""
    return len(order.rows), *_picture_shape(order.model.manifest)


def _answer_head(asked: InferRequest, order: Order, values: Mapping[str, object]) -> dict[str, object]:
    """The JSON of an answer, with the pictures' ``values`` or how many bytes of them follow."""
    return {
        "model_name": order.model.name,
        "model_version": order.model.manifest.version,
        **({} if asked.id is None else {"id": asked.id}),
        "outputs": [{"name": "images", "datatype": "UINT8", "shape": _shape(order), **values}],
    }


def _json_tensors(asked: InferRequest, order: Order, made: Made, request: Request) -> bytes:  # noqa: ARG001
    return to_json(_answer_head(asked, order, {"data": np.stack(made.pictures).ravel().tolist()}))


def _binary_tensors(head: bytes, order: Order, made: Made, request: Request) -> bytes:  # noqa: ARG001
    return b"".join([head, *(picture.tobytes() for picture in made.pictures)])


def _stats(state: State, manifest: Manifest) -> dict[str, object]:
    """Triton's statistics of a model. Failures are counted, and not timed."""
    name, read = manifest.name, state.metrics.registry.get_sample_value
    own = state.engine.lanes[name].metrics
    stages = {
        "success": own.request_seconds,
        "queue": own.queue_seconds,
        "compute_infer": own.compute_seconds,
        "compute_output": own.encode_seconds,
    }
    failed = sum(read("genserve_errors_total", {"model": name, "reason": reason}) or 0 for reason in own.errors)
    return {
        "name": name,
        "version": manifest.version,
        "inference_count": int(read("genserve_images_total", {"model": name}) or 0),
        "execution_count": int(read("genserve_tick_rows_count", {"model": name}) or 0),
        "inference_stats": {
            "fail": {"count": int(failed)},
            **{stage: {"count": sum(each.counts), "ns": int(each.sum * 1e9)} for stage, each in stages.items()},
        },
    }


def _json(content: object, status: int = 200) -> Response:
    return JSONResponse(content, status, _NO_STORE)


_OF_MODELS: Mapping[str, tuple[str, Callable[..., Any], str]] = {
    "": ("GET", get_model_metadata, "The tensors."),
    "/ready": ("GET", get_model_ready, "It can be asked."),
    "/config": ("GET", get_model_config, "The configuration."),
    "/stats": ("GET", get_model_stats, "The statistics."),
    "/infer": ("POST", post_infer, "The pictures."),
}
_OF_THE_SERVER: Mapping[str, tuple[str, Callable[..., Any], str]] = {
    "/v2": ("GET", get_server, "The server."),
    "/v2/health/live": ("GET", get_server_live, "It runs."),
    "/v2/health/ready": ("GET", get_server_ready, "It can be asked."),
    "/v2/models/stats": ("GET", get_stats, "The statistics."),
    "/v2/repository/index": ("POST", post_repository_index, "The models."),
}
_PATHS = {
    **{
        base + path: each
        for path, each in _OF_MODELS.items()
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    },
    **_OF_THE_SERVER,
}

ROUTES = tuple(route(path, {method: handler}) for path, (method, handler, _) in _PATHS.items())

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_BODIES: Mapping[Callable[..., Any], type[BaseModel]] = {
    post_infer: InferRequest,
    post_repository_index: RepositoryIndexRequest,
}
_REFUSED = {post_infer: (400, 408, 413, 422, 429, 500, 503, 504), post_repository_index: (400, 408, 413, 422)}


def _operation(path: str, handler: Callable[..., Any], text: str) -> dict[str, Any]:
    names = [name for name in ("model", "version") if f"{{{name}}}" in path]
    statuses = {503, *([404] if names else []), *_REFUSED.get(handler, ())}
    refused = {
        status: {"description": each["description"], "content": {JSON: {"schema": _ERROR}}}
        for status, each in refusals(*sorted(statuses)).items()
    }
    body = {"requestBody": request_body(_BODIES[handler])} if handler in _BODIES else {}
    kinds = {JSON: {}, **({BINARY: {"type": "string", "format": "binary"}} if handler is post_infer else {})}
    named = described(handler, "Open Inference Protocol")
    if "version" in names:
        named["operationId"] += "_of_version"
    return {**named, "parameters": path_parameters(*names), "responses": {**success(text, kinds), **refused}, **body}


OPERATIONS = {
    path: {method.lower(): _operation(path, handler, text)} for path, (method, handler, text) in _PATHS.items()
}
