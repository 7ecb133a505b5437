"""Paths of models with prompts: between the starting noises of two points, and between their prompts' embeddings."""

from collections.abc import Sequence
from functools import partial

import torch

from service.api.order import Begin, Compute, Order
from service.api.prompts import PromptCache
from service.api.request.prompt_fields import adapters_of
from service.api.request.schemas import InterpolateRequest
from service.api.state import State
from service.api.tasks.path_points import KeyPoint
from service.api.tasks.texts import Texts, read_texts, reading_parts
from service.engine.initial_latents import Leg
from service.models.conditions import conditioned
from service.sampling.step import Inputs


def with_prompts(
    order: Order, body: InterpolateRequest, path: Sequence[Leg], points: Sequence[KeyPoint], state: State
) -> Order:
    """``order`` of a model with prompts, whose frames ``path`` are conditioned on the prompts of ``points``."""
    texts = Texts(
        prompts=[(body.prompt or "") if point.prompt is None else point.prompt for point in points],
        negatives=[body.negative_prompt] * len(points),
        adapters=[adapters_of(body)[0]] * len(points),
        guided=order.rows[0].weight != 1,
    )
    reading = state.prompts.read(order.model, texts.all(order.model))
    assert order.begin is not None
    return order._replace(
        reading=reading,
        before=[*reading_parts(reading), *order.before],
        begin=partial(_begin, order.begin, texts, path, state.prompts),
    )


async def _begin(
    start: Begin, texts: Texts, path: Sequence[Leg], cache: PromptCache, order: Order, compute: Compute
) -> Order:
    """``order``, whose frames ``start`` gave their noise, with the inputs that its texts give."""
    model, scale = order.model, order.params["guidance_scale"]
    assert order.reading is not None
    assert isinstance(scale, float | int)
    known = await read_texts(model, order.reading, cache, compute)
    order = await start(order, compute)
    points = [texts.inputs(index, model, known) for index in range(len(texts.prompts))]
    rows = []
    for row, leg in zip(order.rows, path, strict=True):
        (before, negative), (after, _) = points[leg.before], points[leg.after]
        own = _between(before, after, leg.share)
        rows.append(conditioned(model, row, scale, own, negative, adapter=texts.adapters[0]))
    return order._replace(rows=rows, warnings=[*order.warnings, *texts.warnings(model, known)])


def _between(before: Inputs, after: Inputs, share: float) -> Inputs:
    """The embedding at ``share`` of the way from one prompt to another: a straight line for each number."""
    if share == 0 or before is after:
        return before
    return {name: torch.lerp(tensor, after[name], share) for name, tensor in before.items()}
