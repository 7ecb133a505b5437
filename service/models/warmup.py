"""Warm-up: every bucket runs before the first request does, and what it costs becomes the price list."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from service.engine.cost import CostModel
from service.engine.model import Model
from service.engine.tick import Batch, Step, run
from service.engine.transfer import wait_for
from service.settings import Settings

#: Calls of each size that are the price, after a first one that compiles.
TIMED_CALLS = 3

Result = TypeVar("Result")


class RunExclusive(Protocol):
    """How a piece of work gets the device, and its caller the result."""

    def __call__(self, work: Callable[[], Result], /) -> Result:
        """What ``work`` returns."""


def run_directly(work: Callable[[], Result], /) -> Result:
    """The turn of who has the device alone."""
    return work()


def warm_up(model: Model, settings: Settings, run_exclusive: RunExclusive = run_directly) -> CostModel:
    """Run ``model`` at every bucket and measure each; every call is a ``run_exclusive`` of its own.

    Raises whatever the model raises, and ValueError when it gives a picture that is not finite or of another shape.
    """
    torch.set_num_threads(1)
    batches = {size: _batch(model, size) for size in settings.buckets()}
    for batch in batches.values():
        run_exclusive(partial(_check, model, batch))
    if model.denoise is not None:  # the price of a step: only the last of a row's many has a decode behind it
        batches = {size: replace(batch, ending=~batch.ending) for size, batch in batches.items()}
    # In turn, so that a machine that is slow for a moment is so for all sizes; the least, for it can only add.
    rounds = [
        {size: run_exclusive(partial(_call_ms, model, batch)) for size, batch in batches.items()}
        for _ in range(TIMED_CALLS)
    ]
    return CostModel({size: min(each[size] for each in rounds) for size in batches}, settings.tick_budget_ms)


def _call_ms(model: Model, batch: Batch) -> float:
    """Milliseconds of device time. A GPU is waited for on both sides: a call there returns before it is computed."""
    wait_for(model.device)
    started = time.perf_counter()
    run(model, batch)
    wait_for(model.device)
    return 1000 * (time.perf_counter() - started)


def _check(model: Model, batch: Batch) -> None:
    """Run every part once. Raises ValueError when one breaks the contract, and whatever the model raises."""
    decode = _checked("decode", model.decode, (len(batch), *model.decoded_shape))
    denoise = None if model.denoise is None else _checked("denoise", model.denoise, batch.x.shape)
    stepped = run(replace(model, decode=decode, denoise=denoise), batch)
    if not stepped.usable.all():
        raise ValueError("warm-up gave numbers that are not finite")


def _checked(name: str, part: Callable[..., Tensor], shape: Sequence[int]) -> Callable[..., Tensor]:
    """``part`` that raises ValueError when its result is not float32 of ``shape``, which arithmetic would broadcast."""

    def checked(*batch: Tensor) -> Tensor:
        result: object = part(*batch)
        if not isinstance(result, Tensor):
            raise ValueError(f"{name} returned {type(result).__name__}, not a tensor")
        if result.dtype != torch.float32 or tuple(result.shape) != tuple(shape):
            found = f"{str(result.dtype).removeprefix('torch.')} of shape {tuple(result.shape)}"
            raise ValueError(f"{name} returned {found}, not float32 of shape {tuple(shape)}")
        return result

    return checked


def _batch(model: Model, rows: int) -> Batch:
    """Rows at the first step of the default plan, all of them decoded at its end."""
    latent = torch.randn(rows, *model.row_shape, generator=torch.Generator().manual_seed(0))
    label = torch.full((rows,), model.manifest.null_label)
    ending = np.ones(rows, dtype=np.bool_)
    return Batch(latent.to(model.device), label.to(model.device), ending, _step(model, latent))


def _step(model: Model, latent: Tensor) -> Step | None:
    if model.denoise is None:
        return None
    rows, device = len(latent), model.device
    coefficients = model.plan().table[0].float().expand(rows, 5)
    return Step(
        torch.zeros_like(latent).to(device),
        coefficients.to(device),
        np.zeros(rows, dtype=np.bool_),
        np.ones(rows, dtype=np.float32),
        np.zeros(rows, dtype=np.int64),
    )
