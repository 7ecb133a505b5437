"""Pictures from a model's parts, by the very sampler that serves."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.pixels import to_uint8
from service.sampling.solvers import EMPTY_PLAN, Plan, make_plan
from trainer.data import ImageData, choose, to_unit_range
from trainer.models.parts import Parts
from trainer.vision import utils

GRID_ROWS = 8


class NotFinite(Exception):
    """A network gave NaN or infinity for a picture."""


@torch.inference_mode()
def generate(parts: Parts, label: Tensor, seeds: Sequence[int], plan: Plan, *, guidance_scale: float = 1.0) -> Tensor:
    """uint8 (batch, height, width, channel): a picture for each label (batch,) and seed; scale 1 is no guidance.

    Raises NotFinite when there is none to see in what the network gives: in bytes it would pass for a picture.
    """
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
    pictures = parts.decode(latent, label)
    if not pictures.isfinite().all():
        raise NotFinite("the model gave numbers that are not finite for a picture")
    return to_uint8(pictures)


def default_plan(parts: Parts) -> Plan:
    """The model's own for models that denoise, nothing for the others."""
    if parts.diffusion is None:
        return EMPTY_PLAN
    defaults = parts.diffusion.defaults
    return make_plan(parts.diffusion.noise_schedule, parts.diffusion.t_max, defaults.solver, defaults.steps)


@torch.inference_mode()
def reconstruct(parts: Parts, images: Tensor, label: Tensor) -> Tensor:
    """uint8 (batch, height, width, channel): what codes keep of uint8 ``images`` (batch, channel, height, width)."""
    assert parts.encode is not None
    mean, _ = parts.encode(to_unit_range(images), label)
    return to_uint8(parts.decode(mean, label))


def save_grid(parts: Parts, path: Path, device: torch.device, data: ImageData) -> Tensor:
    """Write a grid of pictures; returns it as uint8 (channel, height, width).

    A class a column; of a model that draws none, pictures of ``data`` with their reconstructions below them.
    """
    grid: Tensor = utils.make_grid(*_cells(parts, device, data), padding=2, pad_value=255)
    path.parent.mkdir(parents=True, exist_ok=True)
    utils.save_image(grid / 255, str(path))
    return grid


def _cells(parts: Parts, device: torch.device, data: ImageData) -> tuple[Tensor, int]:
    """Pictures, uint8 (count, channel, height, width), and how many there are in a row."""
    columns = parts.classes or GRID_ROWS
    if parts.generates:
        label = (torch.arange(columns) % max(1, parts.classes)).repeat(GRID_ROWS)
        pictures = generate(parts, label.to(device), range(len(label)), default_plan(parts))
        return pictures.permute(0, 3, 1, 2).cpu(), columns
    chosen = choose(columns * GRID_ROWS // 2, len(data.images))
    images, label = data.images[chosen].to(device), data.labels[chosen]
    back = reconstruct(parts, images, label.to(device)).permute(0, 3, 1, 2)
    rows = zip(torch.split(images.cpu(), columns), torch.split(back.cpu(), columns), strict=True)
    return torch.cat([picture for pair in rows for picture in pair]), columns
