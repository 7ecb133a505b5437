"""Pictures from a model's parts, by the very sampler that serves."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.pixels import to_uint8
from service.sampling.solvers import EMPTY_PLAN, Plan, make_plan
from trainer.models.parts import Parts
from trainer.vision import utils

GRID_STEPS = 20
GRID_ROWS = 8


@torch.inference_mode()
def generate(parts: Parts, label: Tensor, seeds: Sequence[int], plan: Plan, *, guidance_scale: float = 1.0) -> Tensor:
    """uint8 (batch, height, width, channel): a picture for each label (batch,) and seed; scale 1 is no guidance."""
    device = label.device
    noises = [RowNoise(seed) for seed in seeds]
    latent = torch.stack([noise.draw(parts.latent_shape) for noise in noises]).to(device)
    if parts.denoise is not None and parts.diffusion is not None:
        latent = sample(
            parts.denoise,
            latent,
            noises,
            label,
            plan,
            null_label=parts.classes,
            guidance_scale=guidance_scale,
            x0_range=parts.diffusion.x0_range,
        )
    return to_uint8(parts.decode(latent, label))


def default_plan(parts: Parts) -> Plan:
    """DPM-Solver++(2M) for models that denoise, nothing for the others."""
    if parts.diffusion is None:
        return EMPTY_PLAN
    return make_plan(parts.diffusion.noise_schedule, parts.diffusion.t_max, "dpmpp_2m", GRID_STEPS)


def save_grid(parts: Parts, path: Path, device: torch.device) -> Tensor:
    """Write a grid of pictures, a class a column; returns it as uint8 (channel, height, width)."""
    columns = parts.classes or GRID_ROWS
    label = (
        torch.arange(columns).repeat(GRID_ROWS)
        if parts.classes
        else torch.zeros(columns * GRID_ROWS, dtype=torch.int64)
    )
    pictures = generate(parts, label.to(device), range(len(label)), default_plan(parts))
    grid: Tensor = utils.make_grid(pictures.permute(0, 3, 1, 2).cpu(), nrow=columns, padding=2, pad_value=255)
    path.parent.mkdir(parents=True, exist_ok=True)
    utils.save_image(grid / 255, str(path))
    return grid
