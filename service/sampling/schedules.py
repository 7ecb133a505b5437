"""Noise schedules: x_t = alpha_t * x_0 + sigma_t * noise at T discrete timesteps, t = (index + 1) / T."""

import math

import torch
from torch import Tensor

from service.contract.manifest import NoiseSchedule, max_steps

__all__ = ["alpha_sigma", "alphas_cumprod", "max_steps", "trailing_timesteps"]


def alphas_cumprod(schedule: NoiseSchedule) -> Tensor:
    """Alpha-bar of a variance-preserving schedule, (timesteps,) float64, falling from near 1 to 0."""
    betas = _linear_betas(schedule) if schedule.kind == "linear" else cosine_betas(schedule.timesteps)
    return torch.cumprod(1.0 - betas, dim=0)


def alpha_sigma(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """Scales of the clean latent and of the noise, (timesteps,) float64 each.

    Their squares sum to 1; in a flow, they themselves do (Lipman et al. 2023, "Flow Matching for Generative
    Modeling"; Liu et al. 2023, "Flow Straight and Fast").
    """
    if schedule.kind == "flow":
        sigma = torch.arange(1, schedule.timesteps + 1, dtype=torch.float64) / schedule.timesteps
        return 1.0 - sigma, sigma
    cumulative = alphas_cumprod(schedule)
    return cumulative.sqrt(), (1.0 - cumulative).sqrt()


def trailing_timesteps(last: int, steps: int) -> list[int]:
    """`steps` timestep indices, falling from `last` in even strides to one stride above the clean end.

    The first one is `last` itself, so that the noise level matches the noise that the sampler draws
    (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps Are Flawed", table 2).
    """
    return [round((last + 1) * (steps - step) / steps) - 1 for step in range(steps)]


def _linear_betas(schedule: NoiseSchedule) -> Tensor:
    """Ho et al. 2020, "Denoising Diffusion Probabilistic Models", section 4."""
    return torch.linspace(schedule.beta_start, schedule.beta_end, schedule.timesteps, dtype=torch.float64)


def cosine_betas(timesteps: int) -> Tensor:
    """Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 17."""
    t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    cumulative = torch.cos((t + 0.008) / 1.008 * (math.pi / 2)) ** 2
    return (1.0 - cumulative[1:] / cumulative[:-1]).clamp(max=0.999)  # the paper's cap: alpha stays above 0
