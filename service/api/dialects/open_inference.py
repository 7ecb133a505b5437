"""The Open Inference Protocol, version 2, over HTTP, with Triton's binary tensors: /v2.

Input tensors of /infer are seeds, classes and latents, the output tensor is the pictures; the rest are parameters.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.dialects.inference_tensors import (
    HEAD_LENGTH,
    InferRequest,
    InputName,
    inputs_of,
    read_unpacked,
    split,
    to_native,
)
from service.api.dialects.native import DialectRequest
from service.api.http.endpoint import route
from service.api.http.openapi import BINARY as BYTES
from service.api.http.openapi import Answer, Errors, Handler, Operation
from service.api.order import Order, Output
from service.api.request.body import parse_json, read_body
from service.api.request.negotiation import JSON
from service.api.response.answers import answer
from service.api.response.documented import BODY_ERRORS, COMPUTE_ERRORS, IMAGE_HEADERS
from service.api.state import State, deployment_of, state_of
from service.api.tasks.generate import generate_order
from service.contract.manifest import Manifest
from service.engine.deployment import Deployment
from service.errors import UnknownVersion
from service.history import counts_of

NAME = "genserve"
BINARY = "application/octet-stream"
_NO_STORE = {"Cache-Control": "no-store"}


async def post_infer(request: Request) -> Response:
    """Generate pictures from tensors of seeds and classes, as a tensor.

    The body may have binary tensors (Inference-Header-Content-Length) and be compressed (gzip or deflate). Its
    Content-Type is ignored.
    """
    state = state_of(request)
    deployment = _deployment(request, state)
    head, binary = split(request, await read_unpacked(request, state.settings))
    infer = parse_json(InferRequest, head)
    order = generate_order(state, to_native(infer, binary), deployment, JSON)
    if not infer.binary:
        return await answer(request, state, order, partial(_json_tensors, infer))
    size = {"parameters": {"binary_data_size": math.prod(_shape(order))}}
    head = to_json(_response_head(infer, order, size))
    response = await answer(request, state, order._replace(media=BINARY), partial(_binary_tensors, head))
    response.raw_headers.append((HEAD_LENGTH.lower().encode(), b"%d" % len(head)))
    return response


async def get_server(request: Request) -> Response:
    """Name and version of this server, and the extensions of the protocol that it supports."""
    extensions = ["binary_tensor_data", "model_configuration", "statistics", "model_repository"]
    return _json({"name": NAME, "version": request.app.version, "extensions": extensions})


async def get_server_live(request: Request) -> Response:
    """200 while the engine is running."""
    alive = state_of(request).engine.is_alive()
    return _json({"live": alive}, 200 if alive else 503)


async def get_server_ready(request: Request) -> Response:
    """200 when every model is ready."""
    ready = state_of(request).ready
    return _json({"ready": ready}, 200 if ready else 503)


async def get_model_metadata(request: Request) -> Response:
    """The input and output tensors of a model."""
    model = _deployment(request, state_of(request)).model
    manifest = model.manifest
    return _json(
        {
            "name": manifest.name,
            "versions": [manifest.version],
            "platform": "pytorch_torchscript",
            "inputs": [
                {"name": name, "datatype": datatype, "shape": _input_shape(name, manifest)}
                for name, datatype in inputs_of(model).items()
            ],
            "outputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, *_picture_shape(manifest)]}],
        }
    )


async def get_model_ready(request: Request) -> Response:
    """200 when the model is ready."""
    state = state_of(request)
    name, alive = _deployment(request, state).model.name, state.engine.fault is None
    return _json({"name": name, "ready": alive}, 200 if alive else 503)


async def get_model_config(request: Request) -> Response:
    """The input and output tensors of a model, as a Triton configuration."""
    model = _deployment(request, state_of(request)).model
    manifest = model.manifest
    optional = [
        {
            "name": name,
            "data_type": "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}",
            "dims": _input_shape(name, manifest),
            "optional": True,
        }
        for name, datatype in inputs_of(model).items()
    ]
    pictures = {"name": "images", "data_type": "TYPE_UINT8", "dims": [-1, *_picture_shape(manifest)]}
    return _json(
        {
            "name": manifest.name,
            "platform": "pytorch_torchscript",
            "max_batch_size": 0,  # Triton: 0 means that shapes include the batch dimension
            "input": optional,
            "output": [pictures],
        }
    )


async def get_model_stats(request: Request) -> Response:
    """Number of pictures and forward passes of a model, and nanoseconds spent in each stage."""
    state = state_of(request)
    return _json({"model_stats": [_stats(_deployment(request, state))]})


async def get_statistics(request: Request) -> Response:
    """Number of pictures and forward passes of every model, and nanoseconds spent in each stage."""
    state = state_of(request)
    return _json({"model_stats": [_stats(each) for each in state.engine.deployments.values()]})


async def post_repository_index(request: Request) -> Response:
    """Every model, with the reason where one is not served; with `{"ready": true}` only those served."""
    state = state_of(request)
    body = parse_json(RepositoryIndexRequest, await read_body(request, state.settings))
    ready = [
        {"name": name, "version": each.model.manifest.version, "state": "READY", "reason": ""}
        for name, each in state.engine.deployments.items()
    ]
    refused = [
        {"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason}
        for name, reason in state.models.refused.items()
    ]
    return _json(ready if body.ready else ready + refused)


class RepositoryIndexRequest(DialectRequest):
    """The body of POST /v2/repository/index."""

    ready: bool = Field(default=False, description="List only models that are served.")


def _deployment(request: Request, state: State) -> Deployment:
    """The model of the path. Raises as ``deployment_of``, and UnknownVersion where the path has another version."""
    deployment = deployment_of(request, state, request.path_params["model"])
    name, served = deployment.model.name, deployment.model.manifest.version
    if request.path_params.get("version", served) != served:
        raise UnknownVersion(name, served)
    return deployment


def _input_shape(name: InputName, manifest: Manifest) -> tuple[int, ...]:
    """(n,), or (n, *latent) for latents; -1: any size."""
    if name != "latents":
        return (-1,)
    channels, *rest = manifest.latent_shape
    return (-1, channels, -1, -1) if manifest.has_sizes else (-1, channels, *rest)


def _picture_shape(manifest: Manifest) -> tuple[int, int, int]:
    """(height, width, channel); -1: any of the model's sizes."""
    channels, height, width = manifest.image_shape
    return (-1, -1, channels) if manifest.has_sizes else (height, width, channels)


def _shape(order: Order) -> tuple[int, ...]:
    """(n, height, width, channel)"""
    channels, height, width = order.image_shape
    return len(order.rows), height, width, channels


def _response_head(infer: InferRequest, order: Order, values: Mapping[str, object]) -> dict[str, object]:
    """The JSON of a response; ``values`` are the pictures' data, or its size where it follows as binary."""
    return {
        "model_name": order.model.name,
        "model_version": order.model.manifest.version,
        **({} if infer.id is None else {"id": infer.id}),
        "outputs": [{"name": "images", "datatype": "UINT8", "shape": _shape(order), **values}],
    }


def _json_tensors(infer: InferRequest, order: Order, output: Output, request: Request) -> bytes:  # noqa: ARG001
    return to_json(_response_head(infer, order, {"data": np.stack(output.pictures).ravel().tolist()}))


def _binary_tensors(head: bytes, order: Order, output: Output, request: Request) -> bytes:  # noqa: ARG001
    return b"".join([head, *(picture.tobytes() for picture in output.pictures)])


def _stats(deployment: Deployment) -> dict[str, object]:
    """Triton's statistics of a model; failures are counted but not timed."""
    own = deployment.metrics
    counts = counts_of(own)
    stages = {
        "success": own.request_seconds,
        "queue": own.queue_seconds,
        "compute_infer": own.compute_seconds,
        "compute_output": own.encode_seconds,
    }
    return {
        "name": deployment.model.name,
        "version": deployment.model.manifest.version,
        "inference_count": int(counts.pictures),
        "execution_count": sum(own.tick_rows.counts),
        "inference_stats": {
            "fail": {"count": int(sum(counts.errors.values()))},
            **{stage: {"count": sum(each.counts), "ns": int(1e9 * each.sum)} for stage, each in stages.items()},
        },
    }


def _json(content: object, status: int = 200) -> Response:
    return JSONResponse(content, status, _NO_STORE)


_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_ERRORS = Errors("OpenInferenceError", {JSON: _ERROR})


def _operation(handler: Handler, text: str, *errors: int, **about: Any) -> Operation:  # noqa: ANN401
    """An operation whose answer is JSON, and whose errors are those of the protocol."""
    answers = {200: Answer(text, {JSON: {}}, ["Cache-Control"])} | about.pop("answers", {})
    tag = "Open Inference Protocol"
    return Operation(handler, tag, answers, errors, _ERRORS, **about)


#: 503 of what says whether something is ready, which may also be an error.
_NOT_READY = {503: Answer("It cannot be used.", {JSON: {"type": "object"}}, ["Cache-Control", "Vary", "Retry-After"])}
_TENSORS = Answer("The images.", {JSON: {}, BINARY: BYTES}, (*IMAGE_HEADERS, HEAD_LENGTH))

_OF_MODELS = {
    "": ("GET", _operation(get_model_metadata, "The tensors.", 404)),
    "/ready": ("GET", _operation(get_model_ready, "It can be used.", 404, answers=_NOT_READY)),
    "/config": ("GET", _operation(get_model_config, "The configuration.", 404)),
    "/stats": ("GET", _operation(get_model_stats, "The statistics.", 404)),
    "/infer": (
        "POST",
        _operation(
            post_infer,
            "The images.",
            *BODY_ERRORS,
            *COMPUTE_ERRORS,
            answers={200: _TENSORS},
            body=[InferRequest],
            headers=[HEAD_LENGTH],
            binary_body=True,
        ),
    ),
}
_OF_THE_SERVER = {
    "/v2": ("GET", _operation(get_server, "The server.")),
    "/v2/health/live": ("GET", _operation(get_server_live, "It runs.", answers=_NOT_READY)),
    "/v2/health/ready": ("GET", _operation(get_server_ready, "It can be used.", answers=_NOT_READY)),
    "/v2/models/stats": ("GET", _operation(get_statistics, "The statistics.")),
    "/v2/repository/index": (
        "POST",
        _operation(post_repository_index, "The models.", *BODY_ERRORS, 422, body=[RepositoryIndexRequest]),
    ),
}

ROUTES = tuple(
    route(path, {method: operation})
    for path, (method, operation) in {
        **_OF_THE_SERVER,
        **{
            base + path: each
            for path, each in _OF_MODELS.items()
            for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        },
    }.items()
)
