"""Denoising losses: predict the noise, v or the velocity of an image noised to a random timestep."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from service.contract.manifest import Defaults
from service.sampling.schedules import alpha_sigma
from trainer.compute.draws import Draws
from trainer.model_config import DdpmConfig, DiffusionConfig, TextConfig
from trainer.models.parts import (
    Diffusion,
    Parts,
    PixelDecode,
    Prediction,
    XStart,
    largest_t,
    target_weights,
    x_start_weights,
)
from trainer.models.unet import UNet
from trainer.objectives.base import Objective, Position, Task
from trainer.objectives.guidance import make_teacher

#: (x (batch, *latent), t (batch,), label (batch,)) -> a prediction shaped like x.
Network = Callable[[Tensor, Tensor, Tensor], Tensor]


def q_sample(x_start: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The forward process q(x_t | x_start): alpha x_start + sigma noise.

    ``x_start`` and ``noise`` (batch, channel, height, width); ``alpha`` and ``sigma`` (batch,).
    """
    return alpha[:, None, None, None] * x_start + sigma[:, None, None, None] * noise


def min_snr_weight(alpha: Tensor, sigma: Tensor, prediction: Prediction, gamma: float) -> Tensor:
    """Loss weights (timesteps,) under which the squared error of x_start counts min(SNR, gamma) times.

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy" (arXiv 2303.09556), section 3.4. The
    error of x_start is the error of the output times the output's weight in x_start.
    """
    alpha = alpha.clamp(min=1e-12)  # a flow ends at alpha 0, where epsilon's weight would be 0 times infinity
    _, of_output = x_start_weights(alpha, sigma, prediction)
    return (alpha / sigma).square().clamp(max=gamma) * of_output.square()


def velocity_weight(sigma: Tensor) -> Tensor:
    """Loss weights (timesteps,) that turn a flow's squared error of x_start into that of the velocity.

    Li & He 2025, "Back to Basics: Let Denoising Generative Models Denoise" (arXiv 2511.13720), section 4.2, with their
    lower bound of the divisor.
    """
    return sigma.clamp(min=0.05).pow(-2)


class Denoising:
    """The diffusion loss on images or latents, and the schedule that the sampler needs."""

    def __init__(self, config: DiffusionConfig, x0_range: tuple[float, float] | None, device: torch.device) -> None:
        alpha, sigma = alpha_sigma(config.noise_schedule)
        self.config = config
        t_max = largest_t(alpha, sigma, config.prediction)
        scale = config.guidance_scale if isinstance(config, TextConfig) else 1.0
        defaults = Defaults(steps=config.steps, solver=config.solver, guidance_scale=scale)
        self.diffusion = Diffusion(config.noise_schedule, t_max, x0_range, defaults)
        self.alpha, self.sigma = alpha.float().to(device), sigma.float().to(device)
        self._of_x_start, self._of_noise = target_weights(self.alpha, self.sigma, config.prediction)
        gamma = config.min_snr_gamma
        self._weight = None if gamma is None else min_snr_weight(self.alpha, self.sigma, config.prediction, gamma)
        if config.prediction == "x_start" and gamma is None:
            self._weight = velocity_weight(self.sigma)

    def loss(
        self, network: Network, x_start: Tensor, label: Tensor, draws: Draws, teacher: Network | None = None
    ) -> Tensor:
        """Mean squared error of ``network`` on ``x_start`` (batch, *latent), each row noised to its own timestep.

        The target is the prediction of ``teacher``, if given, on the same noised rows.
        """
        step = self.draw_steps(len(x_start), draws)
        noise = draws.randn_like(x_start)
        x = q_sample(x_start, noise, self.alpha[step], self.sigma[step])
        t = (step + 1) / len(self.alpha)
        if teacher is None:
            target = q_sample(x_start, noise, self._of_x_start[step], self._of_noise[step])
        else:
            target = teacher(x, t, label)
        predicted = network(x, t, label).float()
        squared = (predicted - target).square().flatten(1).mean(dim=1)
        return squared.mean() if self._weight is None else (self._weight[step] * squared).mean()

    def draw_steps(self, count: int, draws: Draws) -> Tensor:
        """Random timesteps (count,) int64, uniform or logit-normal.

        A logit-normal density prefers the middle of the schedule, where the prediction is neither trivial nor hopeless
        (Esser et al. 2024, arXiv 2403.03206, section 3.1).
        """
        timesteps = len(self.alpha)
        if self.config.time_density == "uniform":
            return draws.randint(timesteps, count)
        t = (self.config.time_mean + self.config.time_deviation * draws.randn(count)).sigmoid()
        return (t * timesteps).long().clamp(max=timesteps - 1)

    def x_start(self, network: nn.Module) -> XStart:
        """``network`` as a predictor of x_start."""
        return XStart(network, self.alpha, self.sigma, self.config.prediction)


class DdpmObjective(Objective):
    """A U-Net that denoises images."""

    accumulates = True

    def __init__(self, task: Task, model: DdpmConfig) -> None:
        super().__init__(task)
        network = UNet(task.image_shape, task.classes, model.width, model.blocks, model.dropout, model.patch)
        self.generator = self.place(network)
        self.networks = nn.ModuleDict({"unet": network})
        self.optimizers = {"unet": self.make_optimizer(network.parameters())}
        self.latent_shape = task.image_shape
        self.denoising = Denoising(model, (-1.0, 1.0), task.device)
        self.teacher = make_teacher(self, network, model.teacher)

    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:  # noqa: ARG002
        assert self.teacher is not None
        self.generator.load_state_dict(averages)
        self.teacher.network.load_state_dict(averages)

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:  # noqa: ARG002
        with self.autocast():
            loss = self.denoising.loss(self.networks["unet"], images, label, self.draws, self.teacher)
        self.descend(self.optimizers["unet"], loss)
        return {f"{self.denoising.config.prediction}_mse": loss.detach()}

    def parts(self, generator: nn.Module) -> Parts:
        return Parts(
            self.task.image_shape,
            self.task.classes,
            self.latent_shape,
            decode=PixelDecode(),
            diffusion=self.denoising.diffusion,
            denoise=self.denoising.x_start(generator),
        )
