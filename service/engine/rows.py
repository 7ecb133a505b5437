"""The specification of a picture, before it has a slot in a table."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from service.sampling.solvers import EMPTY_PLAN, Plan
from service.sampling.step import Inpaint

FilmKind = Literal["x0", "xt", "both"]


class Film(NamedTuple):
    """Previews of a row after 0, ``every``, 2 ``every``, ... steps, without the final picture.

    "xt" shows the noisy latent, "x0" the predicted clean one.
    """

    every: int
    kind: FilmKind = "x0"


class RowSpec(NamedTuple):
    """Everything that determines one picture, independent of the rest of its batch.

    ``latent`` (*latent) replaces the starting noise of ``seed``; ``label`` is a class index, or the number of classes
    for "no class". Only denoising models use the rest: ``negative_label`` replaces "no class" in guidance (see
    ``service.sampling.step.Guidance``, also for blends of two classes); ``inpaint`` is a mask and a known latent,
    (*latent) or broadcastable to it; ``as_latent`` returns the clean latent instead of its picture.
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
        """Its rows in all forward passes: guided steps count twice, and one-shot models need one."""
        return max(1, self.plan.steps) * self.weight

    @property
    def weight(self) -> int:
        """Its rows in one forward pass: 2 if guided, else 1."""
        return 1 if self.guidance_scale == 1 else 2


def encode_row(image: Tensor, label: int) -> RowSpec:
    """A row for an encoder: an image (channel, height, width) float32 in [-1, 1], and its class."""
    return RowSpec(0, label, 1.0, EMPTY_PLAN, image)


def inversion_row(x_start: Tensor, label: int, plan: Plan, guidance_scale: float = 1.0) -> RowSpec:
    """A row that inverts a clean latent (*latent) by a plan of ``Model.inversion_plan``."""
    start = plan.start(x_start, torch.zeros_like(x_start))
    return RowSpec(0, label, guidance_scale, plan, start, as_latent=True)
