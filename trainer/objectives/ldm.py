"""Latent diffusion (Rombach et al. 2022, arXiv 2112.10752): denoising in the latent space of a finished autoencoder."""

import torch
from torch import Tensor, nn

from trainer.model_config import LdmConfig
from trainer.models.latent import LatentDecode, LatentEncode, LatentNet, Standardise
from trainer.models.parts import Parts
from trainer.models.vae import VAE
from trainer.objectives.base import Objective, Position, Task
from trainer.objectives.ddpm import Denoising
from trainer.objectives.guidance import make_teacher
from trainer.objectives.vae import build_vae, latent_shape, reparametrise


class LatentDiffusion(nn.Module):
    """The trained network and the frozen autoencoder."""

    def __init__(self, network: LatentNet, vae: VAE, standardise: Standardise) -> None:
        super().__init__()
        self.network, self.vae, self.standardise = network, vae, standardise
        self.vae.requires_grad_(False)


class LdmObjective(Objective):
    """A network that denoises the standardised codes of an autoencoder."""

    accumulates = True

    def __init__(self, task: Task, model: LdmConfig) -> None:
        super().__init__(task)
        self.latent_shape = latent_shape(task.image_shape, model.autoencoder)
        self.model = LatentDiffusion(
            LatentNet(self.latent_shape, task.classes, model.width, model.blocks, model.dropout),
            build_vae(task.image_shape, task.classes, model.autoencoder),
            Standardise(self.latent_shape[0]),
        )
        self.generator = self.place(self.model)
        self.networks = nn.ModuleDict({"ldm": self.model})
        self.optimizers = {"network": self.make_optimizer(self.model.network.parameters())}
        self.denoising = Denoising(model, None, task.device)
        self.teacher = make_teacher(self, self.model.network, model.teacher)

    @torch.no_grad()
    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:
        if self.teacher is not None:
            self.model.load_state_dict(averages)
            self.teacher.network.load_state_dict(self.model.network.state_dict())
            return
        self.model.vae.load_state_dict(averages)
        self.model.standardise.fit(self.model.vae.encoder(images, label)[0])

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:  # noqa: ARG002
        with self.autocast():
            with torch.no_grad():
                mean, logvar = self.model.vae.encoder(images, label)
                mean, logvar = mean.float(), logvar.float()
                latent = self.model.standardise(reparametrise(mean, logvar, self.draws.randn_like(mean)))
            loss = self.denoising.loss(self.model.network, latent, label, self.draws, self.teacher)
        self.descend(self.optimizers["network"], loss)
        return {f"{self.denoising.config.prediction}_mse": loss.detach()}

    def parts(self, generator: nn.Module) -> Parts:
        assert isinstance(generator, LatentDiffusion)
        return Parts(
            self.task.image_shape,
            self.task.classes,
            self.latent_shape,
            encode=LatentEncode(generator.vae.encoder, generator.standardise),
            decode=LatentDecode(generator.vae.decoder, generator.standardise),
            diffusion=self.denoising.diffusion,
            denoise=self.denoising.x_start(generator.network),
        )
