"""Images to evaluate, drawn from a model with the sampler of the service."""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from service.contract.manifest import SolverName
from service.sampling.noise import image_seed
from service.sampling.solvers import EMPTY_PLAN, Plan, make_plan
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.precision import InBfloat16
from trainer.generate import generate
from trainer.models.parts import Parts

BATCH_SIZE = 100


@dataclass(frozen=True)
class Sampler:
    """The plan (empty for a model without steps), the guidance scale, and their description.

    ``name`` is None for a model without steps.
    """

    plan: Plan
    guidance_scale: float
    name: str | None


NO_SAMPLER = Sampler(EMPTY_PLAN, 1.0, None)


def make_sampler(
    parts: Parts,
    solver: SolverName | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> Sampler:
    """The sampler of a model, with the model's defaults for arguments that are None.

    Raises EvaluationError when the number of steps is out of range.
    """
    if parts.diffusion is None:
        return NO_SAMPLER
    defaults = parts.diffusion.defaults
    solver, steps = solver or defaults.solver, steps or defaults.steps
    guidance_scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
    try:
        plan = make_plan(parts.diffusion.noise_schedule, parts.diffusion.t_max, solver, steps)
    except ValueError as failure:
        raise EvaluationError(str(failure)) from failure
    guidance = f", guidance {guidance_scale:g}" if guidance_scale != 1 else ""
    precision = ", bfloat16" if isinstance(parts.denoise, InBfloat16) else ""
    return Sampler(plan, guidance_scale, f"{solver} {steps} step{'s' if steps > 1 else ''}{guidance}{precision}")


def draw(parts: Parts, labels: Tensor, sampler: Sampler, *, first_seed: int = 0, device: torch.device) -> Tensor:
    """uint8 (count, channel, height, width): image i has seed ``first_seed`` + i and class ``labels[i]``.

    For a model without classes the labels are ignored.
    """
    labels = labels if parts.classes else torch.zeros_like(labels)
    pictures = []
    with tqdm(total=len(labels), desc="images", unit="img", leave=False) as bar:
        for first in range(0, len(labels), BATCH_SIZE):
            label = labels[first : first + BATCH_SIZE].to(device)
            seeds = [image_seed(first_seed, first + row) for row in range(len(label))]
            batch = generate(parts, label, seeds, sampler.plan, guidance_scale=sampler.guidance_scale)
            pictures.append(batch.permute(0, 3, 1, 2).cpu())
            bar.update(len(label))
    return torch.cat(pictures)


def labels_like(labels: Tensor, count: int) -> Tensor:
    """``count`` labels in the proportions of ``labels`` (any number,), in a fixed random order."""
    even = torch.arange(count) * len(labels) // count
    generator = torch.Generator().manual_seed(0)
    return labels.sort().values[even][torch.randperm(count, generator=generator)]
