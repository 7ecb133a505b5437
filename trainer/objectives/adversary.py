"""A discriminator and its losses: relativistic with gradient penalties, hinge, cross-entropy, Wasserstein."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compute.processes import batch_mean
from trainer.model_config import AdversarialConfig, DiscriminatorConfig
from trainer.models import gan
from trainer.objectives.base import Objective


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


class Adversary:
    """A discriminator that is trained beside the generator of an objective.

    ``weight``: see ``scale``. ``rate``: its learning rate, relative to that of the config.
    """

    def __init__(
        self,
        objective: Objective,
        network: nn.Module,
        settings: AdversarialConfig,
        weight: float = 1.0,
        rate: float = 1.0,
    ) -> None:
        self.objective, self.network, self.settings, self.weight = objective, network, settings, weight
        self.optimizer = objective.make_optimizer(network.parameters(), rate)

    def train_step(self, images: Tensor, fake: Tensor, label: Tensor, step: int) -> Tensor:
        """Train on real ``images`` and detached ``fake`` ones, (batch, channel, height, width); returns the loss."""
        settings = self.settings
        with self.objective.autocast():
            real_logits, fake_logits = self.network(images, label), self.network(fake, label)
        loss = discriminator_loss(settings.loss, real_logits.float(), fake_logits.float(), settings.real_target)
        total = loss
        if settings.gamma and step % settings.penalty_every == 0:
            # Lazy regularisation: every k steps with k times the weight, the same gradient on average (Karras et al.
            # 2020, appendix B).
            total = loss + settings.penalty_every * settings.gamma * self._penalty(images, fake, label)
        self.objective.descend(self.optimizer, total)
        return loss.detach()

    def generator_loss(self, images: Tensor, fake: Tensor, label: Tensor) -> Tensor:
        """The loss of the generator that made ``fake``; its gradient does not reach the discriminator's weights."""
        self.network.requires_grad_(False)
        with self.objective.autocast():
            fake_logits = self.network(fake, label)
            real_logits = self.network(images, label) if self.settings.loss == "relativistic" else fake_logits
        self.network.requires_grad_(True)
        return generator_loss(self.settings.loss, real_logits.float(), fake_logits.float())

    def scale(self, own: Tensor, of: Tensor, adversarial: Tensor, fake: Tensor) -> Tensor:
        """The factor of the loss ``adversarial`` beside ``own``, the loss of the family that makes the images.

        With it the gradient of ``adversarial`` at its images ``fake`` is ``weight`` times that of ``own`` at its images
        ``of``. A constant would fit neither two families, whose losses differ by orders of magnitude, nor both ends of
        a run (Esser et al. 2021, arXiv 2012.09841, equation 7, where it is the gradient at the last layer).
        """
        wanted, found = (
            batch_mean(torch.autograd.grad(loss, at, retain_graph=True)[0].float().square().sum()).sqrt()
            for loss, at in ((own, of), (adversarial, fake))
        )
        return self.weight * wanted / found.clamp(min=1e-12)

    def _penalty(self, images: Tensor, fake: Tensor, label: Tensor) -> Tensor:
        if self.settings.loss == "wasserstein":
            share = self.objective.draws.rand(len(images))
            return wasserstein_penalty(self.network, images, fake, label, share)
        return zero_centred_penalty(self.network, images, fake, label)


def make_adversary(objective: Objective, settings: DiscriminatorConfig, patch: int = 2) -> Adversary:
    """A residual discriminator, added to the networks and optimizers of ``objective``.

    It works on patches of ``patch`` x ``patch`` pixels.
    """
    shape, classes = objective.task.image_shape, objective.task.classes
    network = objective.place(gan.Discriminator(shape, classes, settings.width, settings.blocks, patch))
    adversary = Adversary(objective, network, settings, settings.weight, settings.rate)
    objective.networks["discriminator"] = network
    objective.optimizers["discriminator"] = adversary.optimizer
    return adversary
