"""The columns a, b, c, d of every solver, from the levels at which its steps begin and end.

Pure functions in float64, shared by the plans of our own models and of models in diffusers' format.
"""

from typing import NamedTuple

import torch
from torch import Tensor

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]
"""The columns a, b, c, d, (steps,) float64 each."""


class Level(NamedTuple):
    """The scales of the clean latent and of the noise, (steps,) float64 each."""

    alpha: Tensor
    sigma: Tensor

    def rows(self, part: slice) -> "Level":
        """The levels of a part of the steps."""
        return Level(self.alpha[part], self.sigma[part])


def ddpm(now: Level, after: Level) -> Coefficients:
    """Ho et al. 2020, equation 7, with the betas of the respaced chain and the posterior's own variance."""
    alpha_step, variance = now.alpha / after.alpha, now.sigma**2
    a = alpha_step * after.sigma**2 / variance
    b = after.alpha * added_variance(now, after) / variance
    return a, b, torch.zeros_like(a), posterior_deviation(now, after)


def ddim(now: Level, after: Level, eta: float) -> Coefficients:
    """Song et al. 2021, "Denoising Diffusion Implicit Models", equations 12 and 16.

    With eta 0 this is also Euler's method, and with eta 1 Euler's ancestral method (Karras et al. 2022, "Elucidating
    the Design Space of Diffusion-Based Generative Models"), written in variance-preserving coordinates.
    """
    d = eta * posterior_deviation(now, after)
    # Rounding may put the variance above the whole by one unit where alpha is nearly 0; the root would be NaN.
    a = (after.sigma**2 - d**2).clamp(min=0).sqrt() / now.sigma
    b = after.alpha - a * now.alpha
    return a, b, torch.zeros_like(a), d


def dpmpp_2m(now: Level, after: Level, *, second_order_end: bool = False) -> Coefficients:
    """Lu et al. 2022, "DPM-Solver++", algorithm 2 (midpoint); every step begins where the one before ends.

    The first step has no history. At the clean end the stride in lambda is infinite, so the last step is of first
    order too; a plan that ends above it may take it with `second_order_end`.
    """
    h = (after.alpha / after.sigma).log() - (now.alpha / now.sigma).log()
    a = after.sigma / now.sigma
    first_order = -after.alpha * torch.expm1(-h)
    extrapolation = torch.zeros_like(h)
    extrapolation[1:] = h[1:] / (2 * h[:-1])  # 0 after a step from pure noise, whose stride is infinite
    if not second_order_end:
        extrapolation[-1:] = 0.0
    return a, first_order * (1 + extrapolation), -first_order * extrapolation, torch.zeros_like(a)


def consistency(after: Level) -> Coefficients:
    """Song et al. 2023, "Consistency Models", algorithm 1: predict, then add fresh noise to the prediction."""
    return torch.zeros_like(after.alpha), after.alpha, torch.zeros_like(after.alpha), after.sigma


def added_variance(now: Level, after: Level) -> Tensor:
    """The variance added between two steps of the plan, (steps,): the betas of the respaced chain."""
    return now.sigma**2 - (now.alpha / after.alpha * after.sigma) ** 2


def posterior_deviation(now: Level, after: Level) -> Tensor:
    """The standard deviation of q(x_next | x, x_start), (steps,)."""
    return after.sigma / now.sigma * added_variance(now, after).sqrt()
