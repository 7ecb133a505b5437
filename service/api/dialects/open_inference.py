"""The Open Inference Protocol, version 2, over HTTP, with Triton's binary tensors: /v2.

Input tensors of /infer are seeds, classes and latents, the output tensor is the pictures; the rest are parameters.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.dialects.inference_tensors import (
    HEAD_LENGTH,
    INPUTS,
    InferRequest,
    InputName,
    read_unpacked,
    split,
    to_native,
)
from service.api.dialects.native import DialectRequest
from service.api.http.endpoint import route
from service.api.http.openapi import described, path_parameters, refusals, request_body, success
from service.api.order import Order, Output
from service.api.request.body import parse_json, read_body
from service.api.request.negotiation import JSON
from service.api.response.answers import answer
from service.api.state import State, deployment_of, state_of
from service.api.tasks.generate import generate_order
from service.contract.manifest import Manifest
from service.engine.deployment import Deployment
from service.errors import UnknownVersion
from service.history import counts_of, value_of

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
    manifest = _deployment(request, state_of(request)).model.manifest
    return _json(
        {
            "name": manifest.name,
            "versions": [manifest.version],
            "platform": "pytorch_torchscript",
            "inputs": [
                {"name": name, "datatype": datatype, "shape": _input_shape(name, manifest)}
                for name, (datatype, _) in INPUTS.items()
            ],
            "outputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, *_picture_shape(manifest)]}],
        }
    )


async def get_model_ready(request: Request) -> Response:
    """200 when the model is ready."""
    state = state_of(request)
    name, alive = _deployment(request, state).model.name, state.engine.is_alive()
    return _json({"name": name, "ready": alive}, 200 if alive else 503)


async def get_model_config(request: Request) -> Response:
    """The input and output tensors of a model, as a Triton configuration."""
    manifest = _deployment(request, state_of(request)).model.manifest
    optional = [
        {"name": name, "data_type": f"TYPE_{datatype}", "dims": _input_shape(name, manifest), "optional": True}
        for name, (datatype, _) in INPUTS.items()
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
        for name, reason in state.manager.refused.items()
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
    return (-1, *manifest.latent_shape) if name == "latents" else (-1,)


def _picture_shape(manifest: Manifest) -> tuple[int, int, int]:
    """(height, width, channel)"""
    channels, height, width = manifest.image_shape
    return height, width, channels


def _shape(order: Order) -> tuple[int, ...]:
    """(n, height, width, channel)"""
    return len(order.rows), *_picture_shape(order.model.manifest)


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
        "execution_count": int(value_of(own.tick_rows, "_count")),
        "inference_stats": {
            "fail": {"count": int(sum(counts.errors.values()))},
            **{
                stage: {"count": int(value_of(each, "_count")), "ns": int(1e9 * value_of(each, "_sum"))}
                for stage, each in stages.items()
            },
        },
    }


def _json(content: object, status: int = 200) -> Response:
    return JSONResponse(content, status, _NO_STORE)


_OF_MODELS: Mapping[str, tuple[str, Callable[..., Any], str]] = {
    "": ("GET", get_model_metadata, "The tensors."),
    "/ready": ("GET", get_model_ready, "The model is ready."),
    "/config": ("GET", get_model_config, "The configuration."),
    "/stats": ("GET", get_model_stats, "The statistics."),
    "/infer": ("POST", post_infer, "The pictures."),
}
_OF_THE_SERVER: Mapping[str, tuple[str, Callable[..., Any], str]] = {
    "/v2": ("GET", get_server, "The server."),
    "/v2/health/live": ("GET", get_server_live, "The engine is running."),
    "/v2/health/ready": ("GET", get_server_ready, "Every model is ready."),
    "/v2/models/stats": ("GET", get_statistics, "The statistics."),
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
