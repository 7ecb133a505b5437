"""The three functions of an artefact as modules: encode, denoise and decode."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from service.contract.manifest import Defaults, NoiseSchedule, max_steps

#: Smallest alpha at which (x - sigma epsilon) / alpha still determines x_start.
LEAST_ALPHA = 0.005

Prediction = Literal["epsilon", "v", "velocity", "x_start"]


@dataclass(frozen=True)
class Diffusion:
    """The sampling of a denoising model: schedule, largest usable t, clamp of x_start, and the default sampler."""

    noise_schedule: NoiseSchedule
    t_max: float
    x0_range: tuple[float, float] | None
    defaults: Defaults


@dataclass(frozen=True)
class Parts:
    """The functions of a trained model; a part that the family lacks is None.

    ``image_shape`` is (channel, height, width), ``classes`` the number of classes (label ``classes`` means "no class"),
    ``latent_shape`` the shape of one image's latent. Without ``generates`` the model only reconstructs: noise is not a
    valid latent.

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
    generates: bool = True


def random_times(diffusion: Diffusion, batch: int, generator: torch.Generator) -> Tensor:
    """Random times (batch,) that a plan can contain, t = (i + 1) / T."""
    schedule = diffusion.noise_schedule
    step = torch.randint(max_steps(schedule, diffusion.t_max), (batch,), generator=generator)
    return (step + 1) / schedule.timesteps


class PixelDecode(nn.Module):
    """The decoder of diffusion in pixel space: the latent is the image."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:  # noqa: ARG002
        return z


def largest_t(alpha: Tensor, sigma: Tensor, prediction: Prediction) -> float:
    """The last t = (i + 1) / T at which the prediction determines x_start; alpha and sigma are (timesteps,)."""
    weight, _ = x_start_weights(alpha, sigma, prediction)
    return int((weight.abs() <= 1 / LEAST_ALPHA).sum()) / len(alpha)


def x_start_weights(alpha: Tensor, sigma: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """The weights of x and of the network's output in x_start, (timesteps,) each.

    They solve output = p x_start + q noise and x = alpha x_start + sigma noise for x_start.
    """
    p, q = target_weights(alpha, sigma, prediction)
    determinant = q * alpha - p * sigma
    return q / determinant, -sigma / determinant


def target_weights(alpha: Tensor, sigma: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """The weights p and q of the training target p x_start + q noise, (timesteps,) each.

    epsilon: the noise (Ho et al. 2020). v: alpha noise - sigma x_start (Salimans & Ho 2022). velocity: noise - x_start
    (Lipman et al. 2023). x_start: the image itself (Li & He 2025, arXiv 2511.13720).
    """
    if prediction == "x_start":
        return torch.ones_like(sigma), torch.zeros_like(sigma)
    if prediction == "v":
        return -sigma, alpha
    return (-torch.ones_like(sigma) if prediction == "velocity" else torch.zeros_like(sigma)), torch.ones_like(sigma)


class OutputToXStart(nn.Module):
    """A network's prediction converted to x_start, whatever its inputs are.

    ``alpha`` and ``sigma`` are (timesteps,); step i of T is at t = (i + 1) / T.
    """

    of_x: Tensor
    of_output: Tensor

    def __init__(self, network: nn.Module, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> None:
        super().__init__()
        self.network = network
        of_x, of_output = x_start_weights(alpha.double(), sigma.double(), prediction)
        self.register_buffer("of_x", of_x.float())
        self.register_buffer("of_output", of_output.float())

    def combine(self, x: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """x_start (batch, *latent) of noisy ``x`` at times ``t`` (batch,), given the network's ``output``."""
        step = (t * self.of_x.shape[0]).round().to(torch.int64) - 1  # (B,)
        return self.of_x[step][:, None, None, None] * x + self.of_output[step][:, None, None, None] * output


class XStart(OutputToXStart):
    """A class-conditional network's prediction converted to x_start."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.combine(x, t, self.network(x, t, label))
