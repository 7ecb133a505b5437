"""The evidence lower bound (Kingma & Welling 2014) with an optimal decoder variance (Rybkin et al. 2021)."""

import math

import torch
from torch import Tensor, nn

from trainer.compute.processes import batch_mean
from trainer.model_config import AutoencoderConfig, VaeConfig
from trainer.models.parts import Parts
from trainer.models.prior import CouplingFlow, PriorDecode, PriorEncode
from trainer.models.pyramid import Decoder, Encoder, Layout
from trainer.models.vae import VAE
from trainer.objectives.adversary import make_adversary
from trainer.objectives.base import Objective, Position, Task


def reparametrise(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A differentiable sample of N(mean, exp(logvar)), (batch, *latent), from standard normal ``noise``."""
    return mean + (0.5 * logvar).exp() * noise


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats for each dimension: (batch, latent)."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1)


def with_free_bits(kl: Tensor, free_bits: float) -> Tensor:
    """The KL loss: the batch mean of ``kl`` (batch, latent), at least ``free_bits`` nats per dimension, summed.

    Kingma et al. 2016 (arXiv 1606.04934), section C.8: below that bound a dimension has no gradient.
    """
    return batch_mean(kl.mean(dim=0)).clamp(min=free_bits).sum()


def gaussian_nll(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Negative log-likelihood in nats per image, up to a constant, under the best variance for the batch.

    One variance for all pixels is optimal at the mean squared error, and the loss there is D/2 log(MSE) for D pixels
    (sigma-VAE, arXiv 2006.13202, section 3): no weight has to be tuned.
    """
    pixels = image[0].numel()
    return 0.5 * pixels * batch_mean((image - reconstruction).square().mean()).log()


def prior_nll(prior: CouplingFlow, codes: Tensor, label: Tensor) -> Tensor:
    """Negative log-likelihood of codes (batch, latent) in nats per image."""
    noise, log_determinant = prior.inverse(codes, label)
    log_normal = -0.5 * (noise.square() + math.log(2.0 * math.pi)).sum(dim=1)
    return -(log_normal + log_determinant).mean()


class VaeObjective(Objective):
    """Reconstruction + beta KL; the KL weight rises during warm-up, so that codes become useful before they cost.

    A learned prior is fitted to detached codes in the same run: the second stage of a two-stage VAE.
    """

    def __init__(self, task: Task, model: VaeConfig | AutoencoderConfig) -> None:
        super().__init__(task)
        self.model = model
        self.latent_shape = latent_shape(task.image_shape, model)
        self.vae = build_vae(task.image_shape, task.classes, model)
        self.generator = self.place(self.vae)
        self.networks = nn.ModuleDict({"vae": self.vae})
        self.optimizers = {"vae": self.make_optimizer(self.vae.parameters())}
        self.adversary = make_adversary(self, model.discriminator, model.patch) if model.discriminator else None

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        with self.autocast():
            mean, logvar = self.vae.encoder(images, label)
            mean, logvar = mean.float(), logvar.float()
            codes = reparametrise(mean, logvar, self.draws.randn_like(mean))
            reconstruction = self.vae.decoder(codes, label)
        losses = {
            "reconstruction": gaussian_nll(images, reconstruction.float()),
            "kl": with_free_bits(kl_to_standard_normal(mean, logvar), self.model.free_bits),
        }
        total = losses["reconstruction"] + self.kl_weight(at.progress) * losses["kl"]
        if self.vae.prior is not None:
            losses["prior"] = prior_nll(self.vae.prior, codes.detach(), label)
            total = total + losses["prior"]
        if self.adversary is not None:
            fake = reconstruction.float() if self.vae.prior is None else self._samples(self.vae.prior, codes, label)
            losses["discriminator"] = self.adversary.train_step(images, fake.detach(), label, at.step)
            losses["adversarial"] = self.adversary.generator_loss(images, fake, label)
            scale = self.adversary.scale(losses["reconstruction"], reconstruction, losses["adversarial"], fake)
            total = total + scale * losses["adversarial"]
        self.descend(self.optimizers["vae"], total)
        return {name: loss.detach() for name, loss in losses.items()}

    def _samples(self, prior: CouplingFlow, like: Tensor, label: Tensor) -> Tensor:
        """Images of codes from the prior, as many as ``like`` has rows; no gradient reaches the prior."""
        with self.autocast():
            with torch.no_grad():
                codes = prior(self.draws.randn_like(like), label)
            images: Tensor = self.vae.decoder(codes, label)
        return images.float()

    def kl_weight(self, progress: float) -> float:
        """The KL weight: it rises linearly to beta over the warm-up."""
        if progress >= self.model.kl_warmup:
            return self.model.beta
        return self.model.beta * progress / self.model.kl_warmup

    def parts(self, generator: nn.Module) -> Parts:
        assert isinstance(generator, VAE)
        encode: nn.Module = generator.encoder
        decode: nn.Module = generator.decoder
        if generator.prior is not None:
            encode, decode = PriorEncode(encode, generator.prior), PriorDecode(decode, generator.prior)
        shape = self.task.image_shape, self.task.classes, self.latent_shape
        return Parts(*shape, encode=encode, decode=decode, generates=isinstance(self.model, VaeConfig))


def latent_shape(image_shape: tuple[int, int, int], model: VaeConfig | AutoencoderConfig) -> tuple[int, ...]:
    """(latent,) for a VAE; for an autoencoder (latent, height / 2 patch, width / 2 patch)."""
    if isinstance(model, VaeConfig):
        return (model.latent,)
    return (model.latent, image_shape[1] // (2 * model.patch), image_shape[2] // (2 * model.patch))


def build_vae(image_shape: tuple[int, int, int], classes: int, model: VaeConfig | AutoencoderConfig) -> VAE:
    """The networks of ``model``."""
    layout = Layout(image_shape, classes, latent_shape(image_shape, model), model.width, model.blocks, model.patch)
    prior = None
    if isinstance(model, VaeConfig) and model.prior == "flow":
        prior = CouplingFlow(model.latent, classes, model.prior_width, model.prior_layers)
    return VAE(Encoder(layout), Decoder(layout), prior)
