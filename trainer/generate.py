"""Pictures from a model's parts, by the very sampler that serves."""

import io
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.pixels import to_uint8
from service.sampling.solvers import EMPTY_PLAN, Plan, make_plan
from trainer.data import ImageData, choose, to_unit_range
from trainer.data.strokes import edges
from trainer.models.parts import Parts
from trainer.models.text_parts import TextParts, prompted
from trainer.text.prompts import GRID_COLUMNS, PROMPTS
from trainer.vision import utils

#: Pictures of each class in a grid, and how many classes it has at most: with 300 it took minutes.
GRID_ROWS, MOST_COLUMNS = 8, 16
#: Drawn at a time: sixteen pictures of 28 x 28.
BATCH_PIXELS = 16 * 28 * 28


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


def text_cells(parts: TextParts, device: torch.device, data: ImageData | None) -> tuple[Tensor, int]:
    """Pictures of ``PROMPTS`` by the default sampler, uint8 (count, channel, height, width), and how many in a row.

    Of a model that takes drawings, drawings after pictures of ``data`` with what it makes of them below.
    """
    if parts.hint_shape is None or data is None:
        return pictures_of(parts, PROMPTS, range(len(PROMPTS)), device).permute(0, 3, 1, 2), GRID_COLUMNS
    assert data.captions is not None
    rows = choose(GRID_COLUMNS * GRID_ROWS // 2, len(data.images))
    names = [data.captions.names[row] for row in rows]
    hints = edges(to_unit_range(data.images[rows]))
    made = pictures_of(parts, names, range(len(names)), device, hints=hints).permute(0, 3, 1, 2)
    drawn = (255 * (1 - hints)).to(torch.uint8).expand_as(made)
    pairs = zip(torch.split(drawn, GRID_COLUMNS), torch.split(made, GRID_COLUMNS), strict=True)
    return torch.cat([picture for pair in pairs for picture in pair]), GRID_COLUMNS


def pictures_of(
    parts: TextParts,
    prompts: Sequence[str],
    seeds: Sequence[int],
    device: torch.device,
    plan: Plan | None = None,
    guidance_scale: float | None = None,
    hints: Tensor | None = None,
) -> Tensor:
    """uint8 (batch, height, width, channel) on the CPU: a picture for each prompt and seed.

    Without ``plan`` and ``guidance_scale`` the artefact's defaults hold; ``hints`` are drawings, see ``prompted``.
    Raises NotFinite.
    """
    assert parts.diffusion is not None
    scale = parts.diffusion.defaults.guidance_scale if guidance_scale is None else guidance_scale
    model, label = prompted(parts, prompts, device, hints), torch.arange(len(prompts), device=device)
    return generate(model, label, seeds, plan or default_plan(parts), guidance_scale=scale).cpu()


@torch.inference_mode()
def reconstruct(parts: Parts, images: Tensor, label: Tensor) -> Tensor:
    """uint8 (batch, height, width, channel): what codes keep of uint8 ``images`` (batch, channel, height, width)."""
    assert parts.encode is not None
    mean, _ = parts.encode(to_unit_range(images), label)
    return to_uint8(parts.decode(mean, label))


def grid_classes(classes: int) -> list[int]:
    """The labels in a grid, a class a column: all, or of many some from all over; of no classes none."""
    columns = min(classes, MOST_COLUMNS)
    return [column * classes // columns for column in range(columns)]


def draw_grid(parts: Parts, device: torch.device, data: ImageData | None) -> Tensor:
    """A grid of pictures, uint8 (channel, height, width).

    A class a column, of ``grid_classes``; of a model that draws none, pictures of ``data``, which only such a model
    needs, with their reconstructions below them.
    """
    cells = text_cells(parts, device, data) if isinstance(parts, TextParts) else _cells(parts, device, data)
    grid: Tensor = utils.make_grid(*cells, padding=2, pad_value=255)
    return grid


def to_png(grid: Tensor) -> bytes:
    """The file of a grid."""
    content = io.BytesIO()
    utils.save_image(grid / 255, content, format="png")
    return content.getvalue()


def _cells(parts: Parts, device: torch.device, data: ImageData | None) -> tuple[Tensor, int]:
    """Pictures, uint8 (count, channel, height, width), and how many there are in a row."""
    shown = grid_classes(parts.classes) or [0] * GRID_ROWS
    columns = len(shown)
    if parts.generates:
        return _drawn(parts, torch.tensor(shown * GRID_ROWS), device), columns
    assert data is not None
    chosen = choose(columns * GRID_ROWS // 2, len(data.images))
    images, label = data.images[chosen].to(device), data.labels[chosen]
    back = reconstruct(parts, images, label.to(device)).permute(0, 3, 1, 2)
    rows = zip(torch.split(images.cpu(), columns), torch.split(back.cpu(), columns), strict=True)
    return torch.cat([picture for pair in rows for picture in pair]), columns


def _drawn(parts: Parts, label: Tensor, device: torch.device) -> Tensor:
    """A picture of each label, seeds from 0, a few at a time: memory stays bounded, and a bar shows progress."""
    _, height, width = parts.image_shape
    batch = max(1, BATCH_PIXELS // (height * width))
    pictures = []
    with tqdm(total=len(label), desc="samples", unit="img", leave=False, disable=None) as bar:
        for first in range(0, len(label), batch):
            seeds = range(first, min(first + batch, len(label)))
            made = generate(parts, label[first : first + batch].to(device), seeds, default_plan(parts))
            pictures.append(made.permute(0, 3, 1, 2).cpu())
            bar.update(len(made))
    return torch.cat(pictures)
