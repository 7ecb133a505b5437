"""What the pictures of a request begin from: uploads read and encoded, before the request's own rows are submitted."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from torch import Tensor

from service import images
from service.admission.job import Job
from service.api.answers import Timeout, client_of, timeout_of, wait
from service.api.arrays import to_base64
from service.api.schemas import GenerateRequest, Params, Showing
from service.api.start_fields import strength_of
from service.api.state import State
from service.api.uploads import read_picture
from service.engine.engine import Deployment
from service.engine.model import Model
from service.engine.results import Latent
from service.engine.rows import RowSpec, encode_row, inversion_row
from service.engine.starts import (
    around_picture,
    at_point,
    decoded,
    from_latents,
    from_noise,
    from_picture,
    image_tensor,
    mean_of,
    repaint_mask,
)


class Begun(NamedTuple):
    """Rows with what they begin from, the fields that say so, and what was done to what was uploaded."""

    rows: Sequence[RowSpec]
    params: Params
    warnings: Sequence[str] = ()


async def begin(
    request: Request, state: State, body: GenerateRequest, deployment: Deployment, rows: Sequence[RowSpec]
) -> Begun:
    """``rows`` of ``deployment`` begun as ``body`` says.

    Raises as ``uploads.read_picture`` and, where a picture is encoded, as ``answers.answer``.
    """
    model = deployment.model
    if body.image is not None:
        return await _from_image(request, state, body, deployment, rows)
    if body.latents is not None:
        latents = body.latents.numpy()
        return Begun(from_latents(rows, latents), {"latents": to_base64(latents)})
    if body.point is not None:
        x_start = at_point(model, body.point)
        return Begun([decoded(model, row, x_start) for row in rows], {"point": [*body.point]})
    if body.truncation is not None:
        begun = await asyncio.to_thread(from_noise, rows, model, body.truncation)
        return Begun(begun, {"truncation": body.truncation})
    return Begun(rows, {})


async def encode(
    request: Request,
    state: State,
    asked: Showing,
    deployment: Deployment,
    pictures: Sequence[Tensor],
    labels: Sequence[int],
) -> Sequence[Latent]:
    """Mean and log-variance (2, *latent) of pictures (channel, height, width), by the model's encoder."""
    timeout = timeout_of(request, state, asked)
    rows = [encode_row(picture, label) for picture, label in zip(pictures, labels, strict=True)]
    job = state.engine.encode(deployment, rows, client_of(request), timeout.left_s)
    assert deployment.encoder is not None
    return await _numbers(request, deployment.encoder, job, timeout)


async def invert(
    request: Request,
    state: State,
    asked: Showing,
    deployment: Deployment,
    x_starts: Sequence[Tensor],
    labels: Sequence[int],
    steps: int,
) -> Sequence[Latent]:
    """The noise (*latent) that DDIM makes each clean latent (*latent) from again, without guidance."""
    timeout, plan = timeout_of(request, state, asked), deployment.model.inversion_plan(steps)
    rows = [inversion_row(x_start, label, plan) for x_start, label in zip(x_starts, labels, strict=True)]
    job = state.engine.invert(deployment, rows, client_of(request), timeout.left_s)
    return await _numbers(request, deployment, job, timeout)


async def clean_latents(
    request: Request,
    state: State,
    asked: Showing,
    deployment: Deployment,
    pictures: Sequence[Tensor],
    labels: Sequence[int],
) -> Sequence[Tensor]:
    """What the model's steps would end at for pictures (channel, height, width): those, or their encoded means."""
    if deployment.model.encode is None:
        return pictures
    codes = await encode(request, state, asked, deployment, pictures, labels)
    return [mean_of(code) for code in codes]


def data_uri(picture: images.Pixels) -> str:
    """A picture as a request may hold it."""
    return f"data:image/png;base64,{base64.b64encode(images.encode_png(picture)).decode()}"


async def _from_image(
    request: Request, state: State, body: GenerateRequest, deployment: Deployment, rows: Sequence[RowSpec]
) -> Begun:
    assert body.image is not None
    model = deployment.model
    fitted = await read_picture("image", body.image, model.manifest.image_shape, state.settings)
    params: Params = {"image": data_uri(fitted.pixels)}
    picture, label = image_tensor(fitted.pixels), rows[0].label
    if model.denoise is None:
        spread = 1.0 if body.spread is None else body.spread
        code = (await encode(request, state, body, deployment, [picture], [label]))[0]
        begun = await asyncio.to_thread(around_picture, rows, code, spread)
        return Begun(begun, params | {"spread": spread}, fitted.warnings)
    mask, mask_params, mask_warnings = await _mask(state, body, model)
    x_start = (await clean_latents(request, state, body, deployment, [picture], [label]))[0]
    strength = strength_of(body)
    begun = await asyncio.to_thread(from_picture, rows, x_start, mask, strength)
    return Begun(begun, params | {"strength": strength} | mask_params, (*fitted.warnings, *mask_warnings))


async def _mask(state: State, body: GenerateRequest, model: Model) -> tuple[Tensor | None, Params, Sequence[str]]:
    if body.mask is None:
        return None, {}, ()
    shape = (1, *model.manifest.image_shape[1:])
    fitted = await read_picture("mask", body.mask, shape, state.settings)
    mask = repaint_mask(fitted.pixels, model.manifest.latent_shape, invert=body.mask_invert)
    params: Params = {"mask": data_uri(fitted.pixels)}
    if body.mask_invert:
        params["mask_invert"] = True
    return mask, params, fitted.warnings


async def _numbers(request: Request, on: Deployment, job: Job[Any], timeout: Timeout) -> Sequence[Latent]:
    latents: Sequence[Latent] = await wait(request, job, timeout, on.metrics)
    request.scope["state"].setdefault("started_at", job.started_at)
    return latents
