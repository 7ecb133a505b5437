"""Every solver is a table with one row (t, a, b, c, d) per step:

    x_next = a * x + b * x_start + c * x_start_prev + d * noise

`x_start` is the network's prediction of the clean latent at this step, `x_start_prev` the one at the previous
step. A plan ends at the clean end (alpha 1, sigma 0), where every solver returns the last prediction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from service.contract.manifest import NoiseSchedule, SolverName
from service.sampling.schedules import alpha_sigma, max_steps, trailing_timesteps

__all__ = ["EMPTY_PLAN", "Plan", "SolverName", "make_inversion_plan", "make_plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of one picture: `table` is (steps, 5) float64, columns t, a, b, c, d.

    `alpha` and `sigma` are the scales of the clean latent and of the noise at its start.
    """

    table: Tensor
    alpha: float = 0.0
    sigma: float = 1.0

    @cached_property
    def steps(self) -> int:
        """Number of steps; cached, because reading a tensor's shape for every picture is slow."""
        return self.table.shape[0]

    @cached_property
    def adds_noise(self) -> bool:
        """Whether any step adds noise."""
        return bool((self.table[:, 4] != 0).any())

    def start(self, x_start: Tensor, noise: Tensor) -> Tensor:
        """The plan's start for a clean latent: alpha * x_start + sigma * noise, all (*latent)."""
        return self.alpha * x_start + self.sigma * noise

    def __len__(self) -> int:
        return self.steps


EMPTY_PLAN = Plan(torch.empty(0, 5, dtype=torch.float64))


def make_plan(
    schedule: NoiseSchedule, t_max: float, solver: SolverName, steps: int, eta: float = 0.0, strength: float = 1.0
) -> Plan:
    """The plan of `steps` steps from `t_max` down to the clean end, or its last part.

    Args:
        schedule: the forward process that the network was trained on.
        t_max: the start, in (0, 1].
        solver: "ddpm" (ancestral), "ddim", "dpmpp_2m", or "consistency" for models tuned to a few steps.
        steps: 1 to `max_steps(schedule, t_max)`.
        eta: fraction of the ancestral noise that "ddim" adds, 0 to 1; 0 for the other solvers.
        strength: in (0, 1]: the plan starts at strength * t_max and has round(steps * strength) steps, at least 1.
            Image to image (Meng et al. 2022, "SDEdit") starts there with `Plan.start`. If steps * strength is an
            integer, these are the last timesteps of the full plan, up to rounding, as in diffusers.

    Raises:
        ValueError: an unknown solver, or steps, eta or strength out of range.
    """
    if solver not in _SOLVERS:
        raise ValueError(f"solver {solver!r} is unknown; allowed: {', '.join(_SOLVERS)}")
    most = max_steps(schedule, t_max)
    if not 1 <= steps <= most:
        raise ValueError(f"steps {steps} is out of range; this model allows 1 to {most}")
    most_eta = 1 if solver == "ddim" else 0
    if not 0 <= eta <= most_eta:
        raise ValueError(f"eta {eta} is out of range; ddim allows 0 to 1, the other solvers only 0")
    if not 0 < strength <= 1:
        raise ValueError(f"strength {strength} is out of range; it must be above 0 and at most 1")
    last, steps = max(1, round(most * strength)) - 1, max(1, round(steps * strength))
    timesteps = torch.tensor(trailing_timesteps(last, steps))
    alpha, sigma = alpha_sigma(schedule)
    alpha = torch.cat([alpha[timesteps], torch.ones(1, dtype=torch.float64)])
    sigma = torch.cat([sigma[timesteps], torch.zeros(1, dtype=torch.float64)])
    coefficients = _SOLVERS[solver](alpha, sigma, eta)
    table = torch.stack([(timesteps.double() + 1) / schedule.timesteps, *coefficients], dim=1)
    return Plan(table, float(alpha[0]), float(sigma[0]))


def make_inversion_plan(schedule: NoiseSchedule, t_max: float, steps: int) -> Plan:
    """The plan from a clean latent up to the noise at `t_max` from which "ddim" reproduces it.

    The deterministic DDIM step taken upwards (Song et al. 2021, section 5.4), first from the lowest timestep to the
    lowest of the plan of `steps` steps, then up that plan's timesteps. Its `Plan.start` adds no noise. Sampling from
    the result with as many steps reproduces the latent up to an error of order 1 / steps.

    Raises:
        ValueError: steps out of range, as in `make_plan`.
    """
    most = max_steps(schedule, t_max)
    if not 1 <= steps <= most:
        raise ValueError(f"steps {steps} is out of range; this model allows 1 to {most}")
    timesteps = torch.tensor([0, *reversed(trailing_timesteps(most - 1, steps))])
    alpha, sigma = (scale[timesteps] for scale in alpha_sigma(schedule))
    a = sigma[1:] / sigma[:-1]
    b = alpha[1:] - a * alpha[:-1]
    t = (timesteps[:-1].double() + 1) / schedule.timesteps
    return Plan(torch.stack([t, a, b, torch.zeros_like(a), torch.zeros_like(a)], dim=1), float(alpha[0]), 0.0)


# A solver maps alpha and sigma at the timesteps and at the clean end, (steps + 1,) float64, and eta to its four
# columns, (steps,) each.
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

    The first step has no history and the last has an infinite stride in lambda: both are first order.
    """
    h = (alpha / sigma).log().diff()
    a = sigma[1:] / sigma[:-1]
    first_order = -alpha[1:] * torch.expm1(-h)
    extrapolation = torch.zeros_like(h)
    extrapolation[1:-1] = h[1:-1] / (2 * h[:-2])  # 0 after a step from pure noise, whose stride is infinite
    return a, first_order * (1 + extrapolation), -first_order * extrapolation, torch.zeros_like(a)


def _consistency(alpha: Tensor, sigma: Tensor, _eta: float) -> _Coefficients:
    """Song et al. 2023, "Consistency Models", algorithm 1: predict, then add fresh noise to the prediction."""
    return torch.zeros_like(alpha[1:]), alpha[1:], torch.zeros_like(alpha[1:]), sigma[1:]


def _added_variance(alpha: Tensor, sigma: Tensor) -> Tensor:
    """The variance added between two steps of the plan: the betas of the respaced chain."""
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
