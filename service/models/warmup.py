"""Warm-up times each bucket (for diffusion, one step without decoding); later ticks refine the estimate."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from service.engine.cost import CostModel
from service.engine.inputs import LABEL
from service.engine.model import Model
from service.engine.tick import Batch, Step, run
from service.engine.transfer import wait_for
from service.settings import Settings

#: Timed forward passes of each size, after a first one that compiles.
TIMED_PASSES = 3
#: Milliseconds of a forward pass after which no larger size is tried.
FAR_TOO_SLOW = 2000.0

Result = TypeVar("Result")


class RunExclusive(Protocol):
    """Runs work while nothing else uses the device, and waits for it."""

    def __call__(self, work: Callable[[], Result], /) -> Result:
        """The result of ``work``."""


def run_directly(work: Callable[[], Result], /) -> Result:
    """Run ``work`` at once: for callers that have the device to themselves."""
    return work()


def warm_up(
    model: Model,
    settings: Settings,
    run_exclusive: RunExclusive = run_directly,
    forward_ms: Mapping[int, float] | None = None,
) -> CostModel:
    """Check and time ``model`` at every bucket; each forward pass goes through ``run_exclusive`` separately.

    With known ``forward_ms`` it is not timed. Raises ValueError when a result is not finite or has the wrong shape or
    type, and whatever the model raises.
    """
    torch.set_num_threads(1)
    batches = _usable(model, settings.buckets(), run_exclusive)
    if forward_ms is not None:
        return CostModel(forward_ms, settings.tick_budget_ms)
    if model.denoise is not None:  # time a step: of a row's many steps only the last decodes
        batches = {size: without_ends(batch) for size, batch in batches.items()}
    # Sizes alternate, so that a slow moment of the machine affects all of them; the minimum, because noise only adds.
    rounds = [
        {size: run_exclusive(partial(_step_ms, model, batch)) for size, batch in batches.items()}
        for _ in range(TIMED_PASSES)
    ]
    return CostModel({size: min(each[size] for each in rounds) for size in batches}, settings.tick_budget_ms)


def _usable(model: Model, sizes: Sequence[int], run_exclusive: RunExclusive) -> dict[int, Batch]:
    """A batch of each of ``sizes``, which has run once; without those too large for the memory, or far too slow."""
    batches: dict[int, Batch] = {}
    for size in sizes:
        batch, started = example_batch(model, size), time.perf_counter()
        try:
            run_exclusive(partial(_check, model, batch))
        except torch.OutOfMemoryError:
            if not batches:
                raise
            break
        batches[size] = batch
        if 1000 * (time.perf_counter() - started) > FAR_TOO_SLOW:
            break
    return batches


def without_ends(batch: Batch) -> Batch:
    """``batch`` with no row at its last step."""
    return replace(batch, ending=np.zeros(len(batch), dtype=np.bool_))


def _step_ms(model: Model, batch: Batch) -> float:
    """Device milliseconds of one step. Waits for the device before and after: GPU calls return before they finish."""
    wait_for(model.device)
    started = time.perf_counter()
    run(model, batch)
    wait_for(model.device)
    return 1000 * (time.perf_counter() - started)


def _check(model: Model, batch: Batch) -> None:
    """Run every part once. Raises ValueError for a result that breaks the contract, and whatever the model raises."""
    decode = _checked("decode", model.decode, (len(batch), *model.decoded_shape))
    denoise = None if model.denoise is None else _checked("denoise", model.denoise, batch.x.shape)
    stepped = run(replace(model, decode=decode, denoise=denoise), batch)
    finite = model.denoise is None or bool(stepped.x.isfinite().all())
    if not (stepped.usable.all() and finite):
        raise ValueError("warm-up gave numbers that are not finite")


def _checked(name: str, part: Callable[..., Tensor], shape: Sequence[int]) -> Callable[..., Tensor]:
    """``part``, raising ValueError for a result that is not float32 of ``shape``: arithmetic would broadcast it."""

    def checked(*batch: Any, **adapted: Any) -> Tensor:  # noqa: ANN401
        result: object = part(*batch, **adapted)
        if not isinstance(result, Tensor):
            raise ValueError(f"{name} returned {type(result).__name__}, not a tensor")
        if result.dtype != torch.float32 or tuple(result.shape) != tuple(shape):
            found = f"{str(result.dtype).removeprefix('torch.')} of shape {tuple(result.shape)}"
            raise ValueError(f"{name} returned {found}, not float32 of shape {tuple(shape)}")
        return result

    return checked


def example_batch(model: Model, rows: int) -> Batch:
    """A batch at the first step of the default plan that decodes all of its rows, unless the model decodes apart."""
    latent = torch.randn(rows, *model.row_shape, generator=torch.Generator().manual_seed(0))
    inputs = {name: _example(model, name, rows) for name, each in model.inputs.items() if not each.optional}
    ending = np.full(rows, not model.decodes_apart, dtype=np.bool_)
    return Batch(latent.to(model.device), inputs, ending, _step(model, latent))


def _example(model: Model, name: str, rows: int) -> Tensor:
    """An input of ``rows`` rows: random numbers, or no class; a class in a diffusers folder, which may lack that."""
    if name == LABEL:
        return torch.full((rows,), 0 if model.schedules else model.manifest.null_label, device=model.device)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, *model.inputs[name].shape, generator=generator).to(model.device)


def _step(model: Model, latent: Tensor) -> Step | None:
    if model.denoise is None:
        return None
    rows, device, plan = len(latent), model.device, model.plan()
    levels = None if plan.levels is None else plan.levels[:2].float().expand(rows, 2, 4).to(device)
    return Step(
        torch.zeros_like(latent).to(device),
        plan.table[0].float().expand(rows, 5).to(device),
        np.zeros(rows, dtype=np.bool_),
        levels=levels,
        clips=plan.clips,
    )
