"""What pictures begin from: set by the fields of a request, or computed from its uploads after admission."""

import asyncio
import base64
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from service import images
from service.api.order import Compute, Order, Uploads, without
from service.api.request.arrays import to_base64
from service.api.request.schemas import GenerateRequest, Params
from service.api.request.start_fields import strength_of
from service.api.request.uploads import Fitted, read_picture
from service.engine.initial_latents import (
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
from service.engine.model import Model
from service.engine.pricing import Part
from service.engine.results import Latent
from service.engine.rows import encode_row, inversion_row
from service.settings import Settings


def started(order: Order, body: GenerateRequest, settings: Settings) -> Order:
    """``order``, whose rows begin from noise, changed to begin as ``body`` says: by ``begin`` where that takes work."""
    model, rows = order.model, order.rows
    if body.image is not None:
        return _from_image(order, body, settings)
    if body.latents is not None:
        latents = body.latents.numpy()
        return _with(order, {"latents": to_base64(latents)})._replace(rows=from_latents(rows, latents))
    if body.point is not None:
        x_start = at_point(model, body.point)
        begun = [decoded(model, row, x_start) for row in rows]
        return _with(order, {"point": [*body.point]})._replace(rows=begun)
    if body.truncation is not None:
        return _with(order, {"truncation": body.truncation})._replace(begin=partial(_truncate, body.truncation))
    return order


def encoding(model: Model, pictures: int, pixels: float = 1.0) -> list[Part]:
    """The part of encoding so many pictures, ``pixels`` as in ``Part``; none for a model without an encoder."""
    return [] if model.encode is None or not pictures else [Part(pictures, 1, encodes=True, pixels=pixels)]


def inverting(model: Model, pictures: int, steps: int) -> list[Part]:
    """The part of inverting so many pictures."""
    return [Part(pictures, max(1, model.inversion_plan(steps).steps))] if pictures else []


async def clean_latents(
    model: Model, pictures: Sequence[Tensor], labels: Sequence[int], compute: Compute
) -> Sequence[Tensor]:
    """Clean latents of pictures (channel, height, width): their encoded means; without an encoder, the pictures."""
    if model.encode is None or not pictures:
        return pictures
    return [mean_of(code) for code in await encoded(pictures, labels, compute)]


async def encoded(pictures: Sequence[Tensor], labels: Sequence[int], compute: Compute) -> Sequence[Latent]:
    """Mean and log-variance (2, *latent) of each picture (channel, height, width)."""
    return await compute([encode_row(picture, label) for picture, label in zip(pictures, labels, strict=True)])


async def inverted(
    model: Model, x_starts: Sequence[Tensor], labels: Sequence[int], steps: int, compute: Compute
) -> Sequence[Latent]:
    """The noise (*latent) from which DDIM without guidance reconstructs each clean latent (*latent)."""
    if not x_starts:
        return []
    plan = model.inversion_plan(steps)
    return await compute([inversion_row(x_start, label, plan) for x_start, label in zip(x_starts, labels, strict=True)])


async def read_upload(order: Order, field: str, settings: Settings, *, channels: int | None = None) -> Fitted:
    """The picture of ``field`` at the model's shape, with ``channels`` if given. The file is no longer held.

    Raises as ``read_picture``.
    """
    assert order.uploads is not None
    own, *size = order.image_shape
    return await read_picture(field, order.uploads.take(field), (channels or own, *size), settings)


def data_uri(picture: images.Pixels) -> str:
    """A picture as the value of a request's field."""
    return f"data:image/png;base64,{base64.b64encode(images.encode_png(picture)).decode()}"


def _with(order: Order, params: Params) -> Order:
    return order._replace(params=order.params | params)


def _from_image(order: Order, body: GenerateRequest, settings: Settings) -> Order:
    """``order`` that begins from the upload of ``body``."""
    files = {"image": body.image, "mask": body.mask}
    order = order._replace(
        asked=without(body, bytes),
        uploads=Uploads({field: file for field, file in files.items() if file is not None}),
        before=encoding(order.model, 1),
    )
    if order.model.denoise is None:
        spread = 1.0 if body.spread is None else body.spread
        return _with(order, {"spread": spread})._replace(begin=partial(_vary, settings, spread))
    strength, masked = strength_of(body), body.mask is not None
    params: Params = {"strength": strength}
    if body.mask_invert:
        params["mask_invert"] = True
    begin = partial(_redraw, settings, strength, masked=masked, invert=body.mask_invert)
    return _with(order, params)._replace(begin=begin)


async def _truncate(truncation: float, order: Order, compute: Compute) -> Order:  # noqa: ARG001
    """Rows that begin from scaled noise."""
    return order._replace(rows=await asyncio.to_thread(from_noise, order.rows, order.model, truncation))


async def _vary(settings: Settings, spread: float, order: Order, compute: Compute) -> Order:
    """Rows that begin from draws of an upload's posterior."""
    fitted = await read_upload(order, "image", settings)
    (code,) = await encoded([image_tensor(fitted.pixels)], [order.rows[0].label], compute)
    rows = await asyncio.to_thread(around_picture, order.rows, code, spread)
    return _with(order, {"image": data_uri(fitted.pixels)})._replace(rows=rows, warnings=fitted.warnings)


async def _redraw(
    settings: Settings, strength: float, order: Order, compute: Compute, *, masked: bool, invert: bool
) -> Order:
    """Rows that begin from an upload with the noise of ``strength`` added; with a mask, only its white part changes."""
    mask, fitted = None, await read_upload(order, "image", settings)
    params: Params = {"image": data_uri(fitted.pixels)}
    warnings = [*fitted.warnings]
    if masked:
        grey = await read_upload(order, "mask", settings, channels=1)
        mask = repaint_mask(grey.pixels, order.model.manifest.latent_shape, invert=invert)
        params["mask"] = data_uri(grey.pixels)
        warnings += grey.warnings
    pictures, labels = [image_tensor(fitted.pixels)], [order.rows[0].label]
    (x_start,) = await clean_latents(order.model, pictures, labels, compute)
    rows = await asyncio.to_thread(from_picture, order.rows, x_start, mask, strength)
    return _with(order, params)._replace(rows=rows, warnings=warnings)
