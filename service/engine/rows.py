"""What a picture is to the engine, before it has a place in a table."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

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


def encode_row(image: Tensor, label: int) -> RowSpec:
    """A picture for ``Engine.encode``: (channel, height, width) float32 in [-1, 1], and its class."""
    return RowSpec(0, label, 1.0, EMPTY_PLAN, image)


def inversion_row(x_start: Tensor, label: int, plan: Plan, guidance_scale: float = 1.0) -> RowSpec:
    """A clean latent (*latent) for ``Engine.invert``, with a plan of ``Model.inversion_plan``."""
    start = plan.start(x_start, torch.zeros_like(x_start))
    return RowSpec(0, label, guidance_scale, plan, start, as_latent=True)
