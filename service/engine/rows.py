"""What a picture is to the engine, before it has a place in a table."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from service.engine.model import Model
from service.sampling.interpolate import InterpolationMethod, path
from service.sampling.noise import RowNoise, image_seed
from service.sampling.solvers import Plan


class RowSpec(NamedTuple):
    """One picture to make: everything that decides it, and nothing of its neighbours.

    ``latent`` (*latent) replaces the starting noise that ``seed`` would give; ``label`` is a class index, or the number
    of classes for "no class".
    """

    seed: int
    label: int
    guidance_scale: float
    plan: Plan
    latent: Tensor | None = None

    @property
    def calls(self) -> int:
        """Rows of network calls it takes: guided steps count twice, and a model without steps is called once."""
        return max(1, self.plan.steps) * self.weight

    @property
    def weight(self) -> int:
        """Rows it takes in one network call."""
        return 1 if self.guidance_scale == 1 else 2


def request_rows(n: int, seed: int, label_of: Callable[[int], int], guidance_scale: float, plan: Plan) -> list[RowSpec]:
    """The pictures of one request: picture i is what picture 0 of seed + i would be, its class too."""
    seeds = [image_seed(seed, index) for index in range(n)]
    return [RowSpec(each, label_of(each), guidance_scale, plan) for each in seeds]


def interpolation_rows(
    model: Model,
    ends: tuple[int, int],
    frames: int,
    method: InterpolationMethod,
    label: int,
    guidance_scale: float,
    plan: Plan,
) -> list[RowSpec]:
    """Pictures along the path between the starting noises of two seeds, both ends included."""
    start, end = (RowNoise(seed).draw(model.manifest.latent_shape) for seed in ends)
    latents = path(start, end, frames, method)
    return [RowSpec(ends[0], label, guidance_scale, plan, latent) for latent in latents]
