"""OpenAI's edits: the transparent part, of a mask or of the picture itself, is redrawn."""

import math
import random
from functools import partial

from service import images
from service.api.order import Compute, Order
from service.api.request.capabilities import denoises
from service.api.request.negotiation import JSON
from service.api.request.schemas import GenerateRequest
from service.api.request.uploads import read_picture
from service.api.response.recipe import Recipe
from service.api.state import State
from service.api.tasks.generate import generate_order
from service.engine.deployment import Deployment
from service.engine.rows import Film
from service.errors import InvalidField


def edit_order(
    state: State, native: GenerateRequest, image: bytes, mask: bytes | None, deployment: Deployment
) -> Order:
    """The order of ``native`` that starts from ``image``. Raises as ``generate_order``.

    Only decoding shows whether the picture has a transparent part. Until then the order is priced as if it had:
    without a strength, all steps are taken.
    """
    if native.seed is None:
        native = native.model_copy(update={"seed": random.getrandbits(32)})
    whole = native.model_copy(update={"image": image} if mask is None else {"image": image, "mask": mask})
    if native.strength is None and denoises(deployment.model):
        whole = whole.model_copy(update={"strength": 1.0})
    order = generate_order(state, whole, deployment, JSON)
    return order._replace(begin=partial(_begin, state, native, mask is not None), edited=native)


def edit_again(state: State, recipe: Recipe, deployment: Deployment) -> Order:
    """The order of a stored edit. Raises as ``edit_order``."""
    files = recipe.files
    return edit_order(state, recipe.read(GenerateRequest), files["image"], files.get("mask"), deployment)


async def _begin(state: State, native: GenerateRequest, masked: bool, order: Order, compute: Compute) -> Order:
    """``order`` started like a native request whose mask is white where the upload is transparent.

    Raises InvalidField.
    """
    uploads, shape, settings = order.uploads, order.image_shape, state.settings
    assert uploads is not None
    mask = await read_picture("mask", uploads.take("mask"), shape, settings) if masked else None
    image = await read_picture("image", uploads.take("image"), shape, settings)
    alpha = image.alpha if mask is None else mask.alpha
    if masked and alpha is None:
        raise InvalidField.of("mask", "has no transparent part to redraw", "a PNG or WebP with alpha")
    small = native.model_copy(update={"image": images.encode_png(image.pixels)})
    if alpha is not None:
        small = small.model_copy(update={"mask": images.encode_png(255 - alpha[:, :, None])})
    again = generate_order(state, small, order.deployment, JSON)
    assert again.begin is not None
    # What was priced is computed: the texts that were missing then.
    begun = await again.begin(again._replace(reading=order.reading), compute)
    film = _film_of(order, begun.rows[0].plan.steps)
    return order._replace(
        rows=[row._replace(film=film) for row in begun.rows],
        params=begun.params,
        warnings=[*image.warnings, *begun.warnings],
    )


def _film_of(order: Order, steps: int) -> Film | None:
    """The film of ``order`` for pictures that now take ``steps``: its number of previews stays."""
    row = order.rows[0]
    return row.film and row.film._replace(every=max(1, math.ceil(row.film.every * steps / row.plan.steps)))
