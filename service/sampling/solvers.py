"""Every solver is a table with one row (t, a, b, c, d) a step:

    x_next = a * x + b * x_start + c * x_start_prev + d * noise

`x_start` is the network's prediction of the clean latent at this step, `x_start_prev` the one at the step
before. A plan ends at the clean end (alpha 1, sigma 0), where every solver gives back the last prediction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from service.contract.manifest import NoiseSchedule, SolverName
from service.sampling.schedules import alpha_sigma, max_steps, trailing_timesteps

__all__ = ["EMPTY_PLAN", "Plan", "SolverName", "make_plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of one picture: `table` is (steps, 5) float64, columns t, a, b, c, d."""

    table: Tensor

    @cached_property
    def steps(self) -> int:
        """How many there are; asked for every picture, and asking a tensor is not cheap."""
        return self.table.shape[0]

    @cached_property
    def adds_noise(self) -> bool:
        """Whether any step does."""
        return bool((self.table[:, 4] != 0).any())

    def __len__(self) -> int:
        return self.steps


EMPTY_PLAN = Plan(torch.empty(0, 5, dtype=torch.float64))


def make_plan(schedule: NoiseSchedule, t_max: float, solver: SolverName, steps: int, eta: float = 0.0) -> Plan:
    """The plan of `steps` steps from `t_max` down to the clean end.

    Args:
        schedule: the forward process that the network was trained on.
        t_max: where to start, in (0, 1].
        solver: "ddpm" (ancestral), "ddim", "dpmpp_2m", or "consistency" for models tuned to a few steps.
        steps: 1 to `max_steps(schedule, t_max)`.
        eta: how much of the ancestral noise "ddim" adds, 0 to 1; the other solvers have none to set.

    Raises:
        ValueError: an unknown solver, or steps or eta out of range.
    """
    if solver not in _SOLVERS:
        raise ValueError(f"solver {solver!r} is unknown; there are {', '.join(_SOLVERS)}")
    most = max_steps(schedule, t_max)
    if not 1 <= steps <= most:
        raise ValueError(f"steps {steps} is out of range; this model takes 1 to {most}")
    most_eta = 1 if solver == "ddim" else 0
    if not 0 <= eta <= most_eta:
        raise ValueError(f"eta {eta} is out of range; ddim takes 0 to 1, the other solvers only 0")
    timesteps = torch.tensor(trailing_timesteps(most - 1, steps))
    alpha, sigma = alpha_sigma(schedule)
    alpha = torch.cat([alpha[timesteps], torch.ones(1, dtype=torch.float64)])
    sigma = torch.cat([sigma[timesteps], torch.zeros(1, dtype=torch.float64)])
    coefficients = _SOLVERS[solver](alpha, sigma, eta)
    return Plan(torch.stack([(timesteps.double() + 1) / schedule.timesteps, *coefficients], dim=1))


# Each solver takes alpha and sigma at the timesteps and at the clean end, (steps + 1,) float64, and the eta;
# it returns its four columns, (steps,) each.
_Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]


def _ddpm(alpha: Tensor, sigma: Tensor, _eta: float) -> _Coefficients:
    """Ho et al. 2020, equation 7, with the betas of the respaced chain and the posterior's own variance."""
    alpha_step, variance = alpha[:-1] / alpha[1:], sigma[:-1] ** 2
    a = alpha_step * sigma[1:] ** 2 / variance
    b = alpha[1:] * _added_variance(alpha, sigma) / variance
    return a, b, torch.zeros_like(a), _posterior_deviation(alpha, sigma)


def _ddim(alpha: Tensor, sigma: Tensor, eta: float) -> _Coefficients:
    """Song et al. 2021, "Denoising Diffusion Implicit Models", equations 12 and 16."""
    d = eta * _posterior_deviation(alpha, sigma)
    a = (sigma[1:] ** 2 - d**2).sqrt() / sigma[:-1]
    b = alpha[1:] - a * alpha[:-1]
    return a, b, torch.zeros_like(a), d


def _dpmpp_2m(alpha: Tensor, sigma: Tensor, _eta: float) -> _Coefficients:
    """Lu et al. 2022, "DPM-Solver++", algorithm 2 (midpoint).

    The first step has no history and the last an infinite stride in lambda: both are first order.
    """
    h = (alpha / sigma).log().diff()
    a = sigma[1:] / sigma[:-1]
    first_order = -alpha[1:] * torch.expm1(-h)
    extrapolation = torch.zeros_like(h)
    extrapolation[1:-1] = h[1:-1] / (2 * h[:-2])  # 0 after a step from pure noise, whose stride is infinite too
    return a, first_order * (1 + extrapolation), -first_order * extrapolation, torch.zeros_like(a)


def _consistency(alpha: Tensor, sigma: Tensor, _eta: float) -> _Coefficients:
    """Song et al. 2023, "Consistency Models", algorithm 1: predict, and noise the prediction anew."""
    return torch.zeros_like(alpha[1:]), alpha[1:], torch.zeros_like(alpha[1:]), sigma[1:]


def _added_variance(alpha: Tensor, sigma: Tensor) -> Tensor:
    """The variance that the forward process adds between two of the plan's steps: the betas of the respaced chain."""
    return sigma[:-1] ** 2 - (alpha[:-1] / alpha[1:] * sigma[1:]) ** 2


def _posterior_deviation(alpha: Tensor, sigma: Tensor) -> Tensor:
    """The standard deviation of q(x_next | x, x_start)."""
    return sigma[1:] / sigma[:-1] * _added_variance(alpha, sigma).sqrt()


_SOLVERS: dict[str, Callable[[Tensor, Tensor, float], _Coefficients]] = {
    "ddpm": _ddpm,
    "ddim": _ddim,
    "dpmpp_2m": _dpmpp_2m,
    "consistency": _consistency,
}
