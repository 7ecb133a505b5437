"""Starting latents other than the noise of a seed: from pictures, latents and points of a map."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.inputs import LABEL
from service.engine.model import Model
from service.engine.results import Latent, Picture
from service.engine.rows import Conditions, RowSpec
from service.sampling.interpolate import InterpolationMethod, walk
from service.sampling.noise import RowNoise
from service.sampling.pixels import from_uint8
from service.sampling.step import Inpaint

#: The level under which a pixel of a drawing is on a stroke: a quarter of it is covered in black.
STROKE = 192


def image_tensor(picture: Picture) -> Tensor:
    """A picture (height, width, channel) uint8 as a network's input, (channel, height, width) in [-1, 1]."""
    return from_uint8(torch.from_numpy(picture.copy()))


def repaint_mask(picture: Picture, latent_shape: Sequence[int], *, invert: bool) -> Tensor:
    """A grey picture (height, width, 1), white where to repaint, as a mask (1, height, width) of the latent's size.

    Each element is the mean of its pixels. ``invert`` repaints black instead.
    """
    mask = torch.from_numpy(picture[None, :, :, 0].astype(np.float32)) / 255
    mask = torch.nn.functional.adaptive_avg_pool2d(mask, (latent_shape[1], latent_shape[2]))
    return 1 - mask if invert else mask


def strokes(picture: Picture) -> Tensor:
    """A drawing (height, width, 3), dark on white, as strokes (1, height, width): 1 on a stroke, else 0.

    A pixel is on a stroke where one of its channels is under ``STROKE``: thin lines are grey in a reduced picture, and
    yellow is dark only in blue.
    """
    darkest = torch.from_numpy(picture.min(axis=2))[None]
    return (darkest < STROKE).float()


def from_noise(rows: Sequence[RowSpec], model: Model, truncation: float) -> list[RowSpec]:
    """``rows`` that start from their seeds' noise times ``truncation``; below 1, VAEs and GANs vary less."""
    return [row._replace(latent=truncation * seed_latent(model, row.seed)) for row in rows]


def from_latents(rows: Sequence[RowSpec], latents: Latent) -> list[RowSpec]:
    """``rows`` that start from ``latents`` (rows, *latent)."""
    return [row._replace(latent=latent) for row, latent in zip(rows, tensor_of(latents), strict=True)]


def started_from(row: RowSpec, x_start: Tensor) -> RowSpec:
    """``row`` that starts from a clean latent (*latent), noised by its seed to its plan's first noise level.

    With a plan of ``strength`` below 1 this gives image to image, inpainting that keeps rough forms, and variations.
    """
    return row._replace(latent=row.plan.start(x_start, RowNoise(row.seed).draw(x_start.shape)))


def from_picture(rows: Sequence[RowSpec], x_start: Tensor, mask: Tensor | None, strength: float) -> list[RowSpec]:
    """``rows`` that start from a clean latent (*latent), noised by ``strength``; black parts of ``mask`` are kept."""
    started = [row if strength == 1 else started_from(row, x_start) for row in rows]
    if mask is None:
        return started
    return [row._replace(inpaint=Inpaint(mask, x_start)) for row in started]


def around_picture(rows: Sequence[RowSpec], code: Latent, spread: float) -> list[RowSpec]:
    """``rows`` that start from samples of a picture's posterior ``code``, mean and log-variance (2, *latent).

    ``spread`` scales the deviation: 0 gives the mean, 1 the posterior.
    """
    mean, logvar = tensor_of(code)
    deviation = spread * (logvar / 2).exp()
    return [row._replace(latent=mean + deviation * RowNoise(row.seed).draw(mean.shape)) for row in rows]


def mean_of(code: Latent) -> Tensor:
    """The mean (*latent) of an encoder's result (2, *latent)."""
    return tensor_of(code[0])


def seed_latent(model: Model, seed: int) -> Tensor:
    """The starting noise of ``seed``, (*latent)."""
    return RowNoise(seed).draw(model.manifest.latent_shape)


def path_latents(points: Sequence[Tensor], position: Tensor, method: InterpolationMethod) -> Tensor:
    """The latents (frames, *latent) at ``position`` (frames,) of a path through ``points`` (*latent) each."""
    return walk(torch.stack([*points]), position, method)


class Leg(NamedTuple):
    """The place of a frame on a path: ``share``, in [0, 1), of the way from point ``before`` to point ``after``."""

    before: int
    after: int
    share: float


def legs(position: Tensor, points: int) -> list[Leg]:
    """The legs of frames at ``position`` (from ``service.sampling.interpolate.positions``) on a path of ``points``."""
    return [Leg(int(each), (int(each) + 1) % points, each - int(each)) for each in position.tolist()]


def blended(row: RowSpec, before: int, after: int, share: float) -> RowSpec:
    """``row`` between two classes: their predictions are blended in place of guidance."""
    if before == after or share == 0:
        return row._replace(label=before)
    return row._replace(label=after, negative_label=before, guidance_scale=share)


def decoded(model: Model, row: RowSpec, x_start: Tensor) -> RowSpec:
    """``row`` that decodes a clean latent (*latent).

    A denoising model reaches it in one step by inpainting with everything known, whatever it is conditioned on.
    """
    if model.denoise is None:
        return row._replace(latent=x_start)
    plan, known = model.plan("ddim" if "ddim" in model.solvers else None, 1), Inpaint(torch.zeros(1), x_start)
    needed = {name: each for name, each in model.inputs.items() if name != LABEL and not each.optional}
    conditions = Conditions({name: torch.zeros(each.shape) for name, each in needed.items()}) if needed else None
    row = row._replace(plan=plan, latent=None, inpaint=known, conditions=conditions)
    return row._replace(guidance_scale=1.0, negative_label=None)


def at_point(model: Model, point: Sequence[float]) -> Tensor:
    """The latent (*latent) at (x, y) of the model's map."""
    assert model.latent_map is not None
    return plane_latents(model, np.array([point]))[0]


def plane_latents(model: Model, points: npt.NDArray[np.float64]) -> Tensor:
    """The latents (count, *latent) at points (count, 2) of the model's map."""
    assert model.latent_map is not None
    latents = model.latent_map.origin + np.tensordot(points, model.latent_map.axes, axes=1)
    return tensor_of(latents.astype(np.float32))


def tensor_of(array: npt.NDArray[np.float32]) -> Tensor:
    """A tensor with a copy of the array."""
    return torch.from_numpy(np.array(array))
