"""Images from a model's parts, with the sampler of the service."""

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

#: Rows of a grid, and its largest number of classes: 300 classes took minutes.
GRID_ROWS, MOST_COLUMNS = 8, 16
#: Pixels of a batch: sixteen images of 28 x 28.
BATCH_PIXELS = 16 * 28 * 28


class NotFinite(Exception):
    """A network returned NaN or infinity for an image."""


@torch.inference_mode()
def generate(
    parts: Parts,
    label: Tensor,
    seeds: Sequence[int],
    plan: Plan,
    *,
    guidance_scale: float = 1.0,
    negative: Tensor | None = None,
) -> Tensor:
    """uint8 (batch, height, width, channel): an image for each label (batch,) and seed; scale 1 is no guidance.

    Guidance leads away from the labels ``negative``, (batch,); None for no class. Raises NotFinite when the output is
    not finite: as uint8 it would look like a valid image.
    """
    device = label.device
    noises = [RowNoise(seed) for seed in seeds]
    latent = torch.stack([noise.draw(parts.latent_shape) for noise in noises]).to(device)
    if parts.denoise is not None and parts.diffusion is not None:
        network = parts.denoise
        latent = sample(
            lambda x, t, inputs: network(x, t, inputs["label"]),
            latent,
            noises,
            {"label": label},
            plan,
            negative={"label": torch.full_like(label, parts.classes) if negative is None else negative},
            guidance_scale=guidance_scale,
            x0_range=parts.diffusion.x0_range,
        )
    pictures = parts.decode(latent, label)
    if not pictures.isfinite().all():
        raise NotFinite("the model returned values that are not finite for an image")
    return to_uint8(pictures)


def default_plan(parts: Parts) -> Plan:
    """The model's default plan; the empty plan for a model that does not denoise."""
    if parts.diffusion is None:
        return EMPTY_PLAN
    defaults = parts.diffusion.defaults
    return make_plan(parts.diffusion.noise_schedule, parts.diffusion.t_max, defaults.solver, defaults.steps)


def text_cells(parts: TextParts, device: torch.device, data: ImageData | None) -> tuple[Tensor, int]:
    """Images of ``PROMPTS`` by the default sampler, uint8 (count, channel, height, width), and the number per row.

    For a model that takes drawings: drawings of images of ``data`` with the images generated from them below.
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
    """uint8 (batch, height, width, channel) on the CPU: an image for each prompt and seed.

    ``plan`` and ``guidance_scale`` default to the artefact's; ``hints`` are drawings, see ``prompted``.
    Raises NotFinite.
    """
    assert parts.diffusion is not None
    scale = parts.diffusion.defaults.guidance_scale if guidance_scale is None else guidance_scale
    model, label = prompted(parts, prompts, device, hints), torch.arange(len(prompts), device=device)
    plan, away = plan or default_plan(parts), label + len(prompts)
    return generate(model, label, seeds, plan, guidance_scale=scale, negative=away).cpu()


@torch.inference_mode()
def reconstruct(parts: Parts, images: Tensor, label: Tensor) -> Tensor:
    """Reconstructions, uint8 (batch, height, width, channel), of uint8 ``images`` (batch, channel, height, width)."""
    assert parts.encode is not None
    mean, _ = parts.encode(to_unit_range(images), label)
    return to_uint8(parts.decode(mean, label))


def grid_classes(classes: int) -> list[int]:
    """The labels of a grid's columns: all classes, or an even selection of many; empty without classes."""
    columns = min(classes, MOST_COLUMNS)
    return [column * classes // columns for column in range(columns)]


def draw_grid(parts: Parts, device: torch.device, data: ImageData | None) -> Tensor:
    """A grid of images, uint8 (channel, height, width), with a column for each of ``grid_classes``.

    For a model that only reconstructs, images of ``data`` with their reconstructions below; other models need no data.
    """
    cells = text_cells(parts, device, data) if isinstance(parts, TextParts) else _cells(parts, device, data)
    grid: Tensor = utils.make_grid(*cells, padding=2, pad_value=255)
    return grid


def to_png(grid: Tensor) -> bytes:
    """A grid as a PNG file."""
    content = io.BytesIO()
    utils.save_image(grid / 255, content, format="png")
    return content.getvalue()


def _cells(parts: Parts, device: torch.device, data: ImageData | None) -> tuple[Tensor, int]:
    """The images of a grid, uint8 (count, channel, height, width), and the number of columns."""
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
    """An image for each label with seeds from 0, in small batches: memory is bounded, and a bar shows progress."""
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
