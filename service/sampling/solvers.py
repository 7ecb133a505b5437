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
from service.sampling.coefficients import Coefficients, Level, consistency, ddim, ddpm, dpmpp_2m
from service.sampling.schedules import alpha_sigma, max_steps, trailing_timesteps

__all__ = ["EMPTY_PLAN", "Plan", "SolverName", "make_inversion_plan", "make_plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of one picture: `table` is (steps, 5) float64, columns t, a, b, c, d.

    `alpha` and `sigma` are the scales of the clean latent and of the noise at its start. A start from pure noise is
    `noise_scale` times that noise.

    `levels` is None where the network predicts x_start itself. For the networks of diffusers it is (steps + 1, 4)
    float64; its row i holds what belongs to the beginning of step i, and its last row the clean end:

    - alpha and sigma, from which `service.sampling.step.x_start_from` takes x_start and by which
      `service.sampling.step.keep_known` noises what is known of the picture;
    - the bound of x_start, infinity for none, and how much of its clamp is added to x
      (`service.sampling.step.clip_x_start`).
    """

    table: Tensor
    alpha: float = 0.0
    sigma: float = 1.0
    noise_scale: float = 1.0
    levels: Tensor | None = None

    @cached_property
    def steps(self) -> int:
        """Number of steps; cached, because reading a tensor's shape for every picture is slow."""
        return self.table.shape[0]

    @cached_property
    def adds_noise(self) -> bool:
        """Whether any step adds noise."""
        return bool((self.table[:, 4] != 0).any())

    @cached_property
    def clips(self) -> bool:
        """Whether `levels` bound x_start."""
        return self.levels is not None and bool(self.levels[:, 2].isfinite().any())

    def start_from_noise(self, noise: Tensor) -> Tensor:
        """The plan's start for a picture made from nothing, (*latent)."""
        return self.noise_scale * noise

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
    coefficients = _SOLVERS[solver](Level(alpha[:-1], sigma[:-1]), Level(alpha[1:], sigma[1:]), eta)
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


_SOLVERS: dict[str, Callable[[Level, Level, float], Coefficients]] = {
    "ddpm": lambda now, after, _eta: ddpm(now, after),
    "ddim": ddim,
    "dpmpp_2m": lambda now, after, _eta: dpmpp_2m(now, after),
    "consistency": lambda _now, after, _eta: consistency(after),
}
