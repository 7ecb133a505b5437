"""The simple DDPM loss (Ho et al. 2020, equation 14): predict the noise mixed in at a random step."""

import torch.nn.functional as F
from torch import Tensor, nn

from service.sampling.schedules import alpha_sigma
from trainer.config import DdpmConfig
from trainer.models.parts import Diffusion, EpsilonDenoise, Parts, PixelDecode, largest_t
from trainer.models.unet import UNet
from trainer.objectives.base import Objective, Task


def q_sample(x_start: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The forward process q(x_t | x_start): alpha x_start + sigma noise.

    ``x_start`` and ``noise`` (batch, channel, height, width); ``alpha`` and ``sigma`` (batch,).
    """
    return alpha[:, None, None, None] * x_start + sigma[:, None, None, None] * noise


class DdpmObjective(Objective):
    """Mean squared error between the noise and its prediction."""

    accumulates = True

    def __init__(self, task: Task, model: DdpmConfig) -> None:
        super().__init__(task)
        network = UNet(task.image_shape, task.classes, model.width, model.blocks, model.dropout)
        self.generator = self.place(network)
        self.networks = nn.ModuleDict({"unet": network})
        self.optimizers = {"unet": self.make_optimizer(network.parameters())}
        self.latent_shape = task.image_shape
        alpha, sigma = alpha_sigma(model.noise_schedule)
        self.alpha, self.sigma = alpha.float().to(task.device), sigma.float().to(task.device)
        self.diffusion = Diffusion(model.noise_schedule, largest_t(alpha), x0_range=(-1.0, 1.0))

    def train_step(self, images: Tensor, label: Tensor, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        step = self.draws.randint(len(self.alpha), len(images))
        noise = self.draws.randn_like(images)
        x = q_sample(images, noise, self.alpha[step], self.sigma[step])
        with self.autocast():
            predicted = self.networks["unet"](x, (step + 1) / len(self.alpha), label)
        loss = F.mse_loss(predicted.float(), noise)
        self.descend(self.optimizers["unet"], loss)
        return {"epsilon_mse": loss.detach()}

    def parts(self, generator: nn.Module) -> Parts:
        return Parts(
            self.task.image_shape,
            self.task.classes,
            self.latent_shape,
            decode=PixelDecode(),
            diffusion=self.diffusion,
            denoise=EpsilonDenoise(generator, self.alpha, self.sigma),
        )
