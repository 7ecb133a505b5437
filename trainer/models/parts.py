"""The three functions of an artefact, as modules: encode, denoise, decode."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.contract.manifest import NoiseSchedule

#: The least alpha at which (x - sigma epsilon) / alpha is still a number worth clamping.
LEAST_ALPHA = 0.005


@dataclass(frozen=True)
class Diffusion:
    """How the latent of a denoising model is reached: the schedule, its usable end, the clamp of x_start."""

    noise_schedule: NoiseSchedule
    t_max: float
    x0_range: tuple[float, float] | None


@dataclass(frozen=True)
class Parts:
    """What a trained model can do; a part that the family lacks is None.

    ``image_shape`` is (channel, height, width), ``classes`` their number (label ``classes`` means "no class"),
    ``latent_shape`` the shape of one image's starting noise.

    encode: image (batch, channel, height, width) in [-1, 1], label (batch,) int64
        -> mean and log-variance, (batch, *latent) each.
    denoise: x (batch, *latent), t (batch,) float in (0, 1], label (batch,) int64
        -> predicted clean x_start, (batch, *latent).
    decode: z (batch, *latent), label (batch,) int64 -> image (batch, channel, height, width) in [-1, 1].
    """

    image_shape: tuple[int, int, int]
    classes: int
    latent_shape: tuple[int, ...]
    decode: nn.Module
    diffusion: Diffusion | None = None
    encode: nn.Module | None = None
    denoise: nn.Module | None = None


class PixelDecode(nn.Module):
    """The decoder of a diffusion in pixel space: the latent is the image."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:  # noqa: ARG002
        return z


def largest_t(alpha: Tensor) -> float:
    """The last t = (i + 1) / T at which epsilon still tells x_start; ``alpha`` is (timesteps,), falling."""
    return int((alpha >= LEAST_ALPHA).sum()) / len(alpha)


class EpsilonDenoise(nn.Module):
    """A noise predictor as a predictor of x_start: x_start = (x - sigma epsilon) / alpha.

    ``alpha`` and ``sigma`` are float32 (timesteps,); step i of T is at t = (i + 1) / T.
    """

    alpha: Tensor
    sigma: Tensor

    def __init__(self, network: nn.Module, alpha: Tensor, sigma: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("alpha", alpha.float())
        self.register_buffer("sigma", sigma.float())

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        step = (t * self.alpha.shape[0]).round().to(torch.int64) - 1  # (B,)
        alpha = self.alpha[step][:, None, None, None]  # (B, 1, 1, 1)
        sigma = self.sigma[step][:, None, None, None]
        noise: Tensor = self.network(x, t, label)
        return (x - sigma * noise) / alpha
