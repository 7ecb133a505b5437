"""A scheduler of diffusers and our table of it, run on the same network: the two sides of every parity test."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from service.sampling.diffusers_schedule import DiffusionSchedule, DiffusionSolver, PredictionType
from service.sampling.solvers import Plan
from service.sampling.step import Inpaint, clip_x_start, keep_known, update, x_start_from

SHAPE = (1, 2, 4, 4)

CLASSES: dict[DiffusionSolver, str] = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
}
#: The betas of Stable Diffusion, whose last alpha is 0.068: a linear network stays in a range that float32 can follow.
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

Network = Callable[[Tensor, Tensor], Tensor]
"""(x (batch, *latent), t (), the timestep as diffusers gives it) -> the prediction, shaped like x."""


def network(x: Tensor, t: Tensor) -> Tensor:
    """A fixed linear function of x and t whose predictions leave [-1, 1], so that a clamp matters."""
    mixed = 0.6 * x + 0.2 * x.roll(1, dims=-1) - 0.2 * x.roll(1, dims=-3)
    return mixed + 0.4 * (t.to(x.dtype) / 1000 - 0.3)


def schedule_of(scheduler: Any, solver: DiffusionSolver | None = None) -> DiffusionSchedule:
    """Our schedule of a scheduler's configuration, as its file has it."""
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    return DiffusionSchedule.from_config(config, solver)


def scheduler_of(solver: DiffusionSolver, **config: object) -> Any:
    """The scheduler of diffusers that a solver computes."""
    return getattr(diffusers, CLASSES[solver])(**config)


def draw(generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SHAPE, generator=generator, dtype=dtype)


def theirs(
    scheduler: Any,
    steps: int,
    seed: int,
    *,
    eta: float = 0.0,
    strength: float = 1.0,
    x_start: Tensor | None = None,
    mask: Tensor | None = None,
    net: Network = network,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """The latents of a pipeline's loop, its start first: text to image, or image to image from `x_start`.

    With `mask` it is the loop of the inpainting pipeline, which starts from noise alone at strength 1.
    """
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    first = max(steps - min(int(steps * strength), steps), 0)
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    noise = draw(generator, dtype)
    from_noise = x_start is None or (mask is not None and strength == 1)
    x = noise * scheduler.init_noise_sigma if from_noise else scheduler.add_noise(x_start, noise, timesteps[:1])
    options: dict[str, object] = {"generator": generator} | ({"eta": eta} if eta else {})
    states = [x]
    for index, t in enumerate(timesteps):
        output = net(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **options).prev_sample.to(dtype)
        if mask is not None and x_start is not None:
            known = x_start
            if index < len(timesteps) - 1:
                known = scheduler.add_noise(x_start, noise, torch.tensor([timesteps[index + 1]]))
            x = (1 - mask) * known + mask * x
        states.append(x)
    return states


def ours(
    plan: Plan,
    prediction_type: PredictionType,
    seed: int,
    *,
    x_start: Tensor | None = None,
    inpaint: Inpaint | None = None,
    net: Network = network,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """The same loop with our table, in the order in which an engine has to call the functions of a step."""
    assert plan.levels is not None
    generator = torch.Generator().manual_seed(seed)
    noise = draw(generator, dtype)
    x = plan.start_from_noise(noise) if x_start is None else plan.start(x_start, noise)
    previous, states = torch.zeros_like(x), [x]
    for row, (here, after) in zip(plan.table, zip(plan.levels, plan.levels[1:], strict=False), strict=True):
        alpha, sigma, bound, shift = here.to(dtype).view(4, 1).unbind()
        predicted = x_start_from(net(x, row[0]), x, alpha, sigma, prediction_type)
        shifted, predicted = clip_x_start(x, predicted, bound, shift)
        drawn = draw(generator, dtype) if row[4] != 0 else None
        x, previous = update(shifted, predicted, previous, row[None, 1:], drawn), predicted
        if inpaint is not None:
            x = keep_known(x, inpaint, noise, *after.to(dtype).view(4, 1)[:2])
        states.append(x)
    return states


def difference(actual: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of the ends, relative to the largest value on the way.

    Euler's schedulers hold latents of the size of sigma in float32, so their rounding is relative to that size.
    """
    assert len(actual) == len(expected)
    scale = max(float(state.abs().max()) for state in (*actual, *expected))
    return float((actual[-1] - expected[-1]).abs().max()) / scale
