"""What the pictures of a request begin from: said by its fields at once, made of its uploads once it is accepted."""

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
from service.api.request.uploads import read_picture
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
    tensor_of,
)
from service.engine.model import Model
from service.engine.pricing import Part
from service.engine.rows import encode_row, inversion_row
from service.settings import Settings


def started(order: Order, body: GenerateRequest, settings: Settings) -> Order:
    """``order``, whose rows begin from noise, begun as ``body`` says; with a ``begin`` where that takes work."""
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


def encoding(model: Model, pictures: int) -> list[Part]:
    """What ``model``'s encoder has to compute for so many pictures; nothing where it has none."""
    return [] if model.encode is None or not pictures else [Part(pictures, 1, encodes=True)]


def inverting(model: Model, pictures: int, steps: int) -> list[Part]:
    """What ``model`` has to compute to invert so many pictures."""
    return [Part(pictures, max(1, model.inversion_plan(steps).steps))] if pictures else []


async def clean_latents(
    model: Model, pictures: Sequence[Tensor], labels: Sequence[int], compute: Compute
) -> Sequence[Tensor]:
    """What the model's steps would end at for pictures (channel, height, width): those, or their encoded means."""
    if model.encode is None or not pictures:
        return pictures
    rows = [encode_row(picture, label) for picture, label in zip(pictures, labels, strict=True)]
    return [mean_of(code) for code in await compute(rows)]


async def inverted(
    model: Model, x_starts: Sequence[Tensor], labels: Sequence[int], steps: int, compute: Compute
) -> Sequence[Tensor]:
    """The noise (*latent) that DDIM makes each clean latent (*latent) from again, without guidance."""
    if not x_starts:
        return []
    plan = model.inversion_plan(steps)
    rows = [inversion_row(x_start, label, plan) for x_start, label in zip(x_starts, labels, strict=True)]
    return [tensor_of(latent) for latent in await compute(rows)]


def data_uri(picture: images.Pixels) -> str:
    """A picture as a request may hold it."""
    return f"data:image/png;base64,{base64.b64encode(images.encode_png(picture)).decode()}"


def _with(order: Order, params: Params) -> Order:
    return order._replace(params=order.params | params)


def _from_image(order: Order, body: GenerateRequest, settings: Settings) -> Order:
    """``order`` that begins from the upload of ``body``, to be decoded and perhaps encoded."""
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
    """Rows from noise that is scaled."""
    return order._replace(rows=await asyncio.to_thread(from_noise, order.rows, order.model, truncation))


async def _vary(settings: Settings, spread: float, order: Order, compute: Compute) -> Order:
    """Rows around an upload, from draws of its posterior."""
    assert order.uploads is not None
    fitted = await read_picture("image", order.uploads.take("image"), order.model.manifest.image_shape, settings)
    (code,) = await compute([encode_row(image_tensor(fitted.pixels), order.rows[0].label)])
    rows = await asyncio.to_thread(around_picture, order.rows, code, spread)
    return _with(order, {"image": data_uri(fitted.pixels)})._replace(rows=rows, warnings=fitted.warnings)


async def _redraw(
    settings: Settings, strength: float, order: Order, compute: Compute, *, masked: bool, invert: bool
) -> Order:
    """Rows from an upload that is brought to the noise of ``strength``, or the part of it that a mask leaves open."""
    assert order.uploads is not None
    manifest, mask = order.model.manifest, None
    fitted = await read_picture("image", order.uploads.take("image"), manifest.image_shape, settings)
    params: Params = {"image": data_uri(fitted.pixels)}
    warnings = [*fitted.warnings]
    if masked:
        shape = (1, *manifest.image_shape[1:])
        grey = await read_picture("mask", order.uploads.take("mask"), shape, settings)
        mask = repaint_mask(grey.pixels, manifest.latent_shape, invert=invert)
        params["mask"] = data_uri(grey.pixels)
        warnings += grey.warnings
    pictures, labels = [image_tensor(fitted.pixels)], [order.rows[0].label]
    (x_start,) = await clean_latents(order.model, pictures, labels, compute)
    rows = await asyncio.to_thread(from_picture, order.rows, x_start, mask, strength)
    return _with(order, params)._replace(rows=rows, warnings=warnings)
