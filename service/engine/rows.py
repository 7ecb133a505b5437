"""The specification of a picture, before it has a slot in a table."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from service.sampling.solvers import EMPTY_PLAN, Plan
from service.sampling.step import Inpaint

FilmKind = Literal["x0", "xt", "both"]
#: Pixels of a picture: height and width.
Size = tuple[int, int]


class Film(NamedTuple):
    """Previews of a row after 0, ``every``, 2 ``every``, ... steps, without the final picture.

    "xt" shows the noisy latent, "x0" the predicted clean one.
    """

    every: int
    kind: FilmKind = "x0"


class Adapter(NamedTuple):
    """The LoRA of a row: its name, and how much of it is added."""

    name: str
    scale: float = 1.0


class Conditions(NamedTuple):
    """What a row is conditioned on besides its class: the inputs that the model declares (``service.engine.inputs``).

    ``inputs`` are float32 tensors of the declared shapes. ``negative`` has those that guidance leads away from.
    ``windows`` has the steps, from the first to before the last, in which an optional input acts; all without an entry.
    """

    inputs: Mapping[str, Tensor]
    negative: Mapping[str, Tensor] = {}
    windows: Mapping[str, tuple[int, int]] = {}
    adapter: Adapter | None = None


class RowSpec(NamedTuple):
    """Everything that determines one picture, independent of the rest of its batch.

    ``latent`` (*latent) replaces the starting noise of ``seed``; ``label``, the input of models with classes, is a
    class index, or the number of classes for "no class". Only denoising models use the rest: ``negative_label``
    replaces "no class" in guidance (see ``service.sampling.step.Guidance``, also for blends of two classes);
    ``inpaint`` is a mask and a known latent, (*latent) or broadcastable to it; ``as_latent`` returns the clean latent
    instead of its picture. ``draws`` is how many draws of its seed's noise were used for its start; those of the solver
    come after them. ``size`` is None for the model's own.
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
    conditions: Conditions | None = None
    draws: int = 1
    size: Size | None = None

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
