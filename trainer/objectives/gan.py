"""Adversarial losses: relativistic with gradient penalties, hinge, cross-entropy, Wasserstein."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from trainer.config import GanConfig
from trainer.models import dcgan, gan
from trainer.models.parts import Parts
from trainer.models.pyramid import Decoder
from trainer.objectives.base import Objective, Position, Task


def discriminator_loss(loss: str, real: Tensor, fake: Tensor, real_target: float = 1.0) -> Tensor:
    """The discriminator's loss, from its logits (batch,) for real and fake images with the same labels.

    relativistic: the logit of each real image should exceed that of its fake (Jolicoeur-Martineau 2019). hinge: Lim &
    Ye 2017. bce: Goodfellow et al. 2014, with ``real_target`` below 1 for one-sided label smoothing (Salimans et al.
    2016): smoothing the fake target would reinforce the generator's current output. wasserstein: Arjovsky et al. 2017.
    """
    if loss == "relativistic":
        return F.softplus(fake - real).mean()
    if loss == "hinge":
        return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()
    if loss == "bce":
        return F.binary_cross_entropy_with_logits(real, torch.full_like(real, real_target)) + F.softplus(fake).mean()
    return (fake - real).mean()


def generator_loss(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """The generator's loss; for bce the non-saturating form."""
    if loss == "relativistic":
        return F.softplus(real - fake).mean()
    return F.softplus(-fake).mean() if loss == "bce" else -fake.mean()


def gradient_norm(discriminator: nn.Module, images: Tensor, label: Tensor) -> Tensor:
    """The squared norm of the logit's gradient with respect to each image, (batch,), differentiable in the weights."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(images, label).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1)


def zero_centred_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, label: Tensor) -> Tensor:
    """R1 + R2 (Mescheder et al. 2018, arXiv 1801.04406): half the mean squared gradient norm of each set."""
    both = gradient_norm(discriminator, torch.cat([real, fake]), torch.cat([label, label]))
    return both.sum() / (2 * len(real))


def wasserstein_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, label: Tensor, share: Tensor) -> Tensor:
    """WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028): the gradient norm between real and fake images should be one.

    ``share`` (batch,), uniform in [0, 1), is the interpolation weight of the fake image.
    """
    between = torch.lerp(real, fake, share[:, None, None, None])
    return (gradient_norm(discriminator, between, label).add(1e-12).sqrt() - 1.0).square().mean()


class GanObjective(Objective):
    """A discriminator step, and after every ``critic_steps`` of them a generator step on the same labels."""

    def __init__(self, task: Task, model: GanConfig) -> None:
        super().__init__(task)
        self.model = model
        self.networks = _networks(task, model)
        self.place(self.networks)
        self.generator, self.discriminator = self.networks["generator"], self.networks["discriminator"]
        self.optimizers = {name: self.make_optimizer(net.parameters()) for name, net in self.networks.items()}
        self.latent_shape = (model.latent,)

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        z = self.draws.randn(len(images), *self.latent_shape)
        with self.autocast():
            fake = self.generator(z, label)
        losses = self._discriminate(images, fake.detach().float(), label, at)
        if (at.step + 1) % self.model.critic_steps == 0:
            losses["generator"] = self._generate(images, fake, label)
        return losses

    def parts(self, generator: nn.Module) -> Parts:
        return Parts(self.task.image_shape, self.task.classes, self.latent_shape, decode=generator)

    def _discriminate(self, images: Tensor, fake: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        with self.autocast():
            real_logits, fake_logits = self.discriminator(images, label), self.discriminator(fake, label)
        loss = discriminator_loss(self.model.loss, real_logits.float(), fake_logits.float(), self.model.real_target)
        losses = {"discriminator": loss.detach()}
        if self.model.gamma and at.step % self.model.penalty_every == 0:
            penalty = self._penalty(images, fake, label)
            # Lazy regularisation: every k steps with k times the weight, the same gradient on average (Karras et al.
            # 2020, appendix B).
            loss = loss + self.model.penalty_every * self.model.gamma * penalty
        self.descend(self.optimizers["discriminator"], loss)
        return losses

    def _penalty(self, images: Tensor, fake: Tensor, label: Tensor) -> Tensor:
        if self.model.loss == "wasserstein":
            return wasserstein_penalty(self.discriminator, images, fake, label, self.draws.rand(len(images)))
        return zero_centred_penalty(self.discriminator, images, fake, label)

    def _generate(self, images: Tensor, fake: Tensor, label: Tensor) -> Tensor:
        self.discriminator.requires_grad_(False)
        with self.autocast():
            fake_logits = self.discriminator(fake, label)
            real_logits = self.discriminator(images, label) if self.model.loss == "relativistic" else fake_logits
        self.discriminator.requires_grad_(True)
        loss = generator_loss(self.model.loss, real_logits.float(), fake_logits.float())
        self.descend(self.optimizers["generator"], loss)
        return loss.detach()


def _networks(task: Task, model: GanConfig) -> nn.ModuleDict:
    shape, classes = task.image_shape, task.classes
    if model.network == "dcgan":
        generator: nn.Module = dcgan.Generator(shape, classes, model.width, model.latent)
        discriminator: nn.Module = dcgan.Discriminator(shape, classes, model.width)
    else:
        generator = Decoder(shape, classes, (model.latent,), model.width, model.blocks)
        discriminator = gan.Discriminator(shape, classes, model.width, model.blocks)
    if model.spectral_norm:
        for layer in discriminator.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                if not layer.weight.any():
                    layer.reset_parameters()  # spectral normalisation would divide by a norm of zero
                spectral_norm(layer)
    return nn.ModuleDict({"generator": generator, "discriminator": discriminator})
