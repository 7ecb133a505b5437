"""What a picture is to the engine, before it has a place in a table."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from service.sampling.noise import RowNoise
from service.sampling.solvers import EMPTY_PLAN, Plan
from service.sampling.step import Inpaint

FilmKind = Literal["x0", "xt", "both"]


class Film(NamedTuple):
    """Previews of a row: after 0, ``every``, 2 ``every``, ... of its steps, which ends before the picture itself.

    "xt" shows the noisy latent, "x0" the clean one that is predicted from it.
    """

    every: int
    kind: FilmKind = "x0"


class RowSpec(NamedTuple):
    """One picture to make: everything that decides it, and nothing of its neighbours.

    ``latent`` (*latent) replaces the starting noise that ``seed`` would give; ``label`` is a class index, or the number
    of classes for "no class". The rest is for models that denoise only: ``negative_label`` is what guidance leads away
    from instead of "no class" (see ``service.sampling.step.Guidance``, also for blends of two classes), ``inpaint`` has
    a mask and a known latent, (*latent) or what broadcasts to it, ``as_latent`` makes the clean latent the result
    instead of its picture.
    """

    seed: int
    label: int
    guidance_scale: float
    plan: Plan
    latent: Tensor | None = None
    negative_label: int | None = None
    inpaint: Inpaint | None = None
    film: Film | None = None
    as_latent: bool = False

    @property
    def calls(self) -> int:
        """Rows of network calls it takes: guided steps count twice, and a model without steps is called once."""
        return max(1, self.plan.steps) * self.weight

    @property
    def weight(self) -> int:
        """Rows it takes in one network call."""
        return 1 if self.guidance_scale == 1 else 2

    def noise(self, latent_shape: Sequence[int]) -> Tensor:
        """The starting noise that ``seed`` gives, (*latent_shape)."""
        return RowNoise(self.seed).draw(latent_shape)


def started_from(row: RowSpec, x_start: Tensor) -> RowSpec:
    """``row`` begun from a clean latent (*latent) at its plan's first noise level, with the noise of its seed.

    With a plan of ``strength`` below 1: image to image, inpainting that keeps the rough form, and variations.
    """
    return row._replace(latent=row.plan.start(x_start, row.noise(x_start.shape)))


def truncated(row: RowSpec, latent_shape: Sequence[int], truncation: float) -> RowSpec:
    """``row`` begun from its seed's noise times ``truncation``; below 1, a VAE's or a GAN's vary less."""
    return row._replace(latent=truncation * row.noise(latent_shape))


def varied(row: RowSpec, mean: Tensor, logvar: Tensor, spread: float = 1.0) -> RowSpec:
    """A variation of an encoded picture by a VAE: ``row`` begun from a draw of its posterior, (*latent) each.

    ``spread`` scales the deviation: 0 is the mean, 1 the posterior.
    """
    return row._replace(latent=mean + spread * (logvar / 2).exp() * row.noise(mean.shape))


def encode_row(image: Tensor, label: int) -> RowSpec:
    """A picture for ``Engine.encode``: (channel, height, width) float32 in [-1, 1], and its class."""
    return RowSpec(0, label, 1.0, EMPTY_PLAN, image)


def inversion_row(x_start: Tensor, label: int, plan: Plan, guidance_scale: float = 1.0) -> RowSpec:
    """A clean latent (*latent) for ``Engine.invert``, with a plan of ``Model.inversion_plan``."""
    start = plan.start(x_start, torch.zeros_like(x_start))
    return RowSpec(0, label, guidance_scale, plan, start, as_latent=True)
