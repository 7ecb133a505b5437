"""The non-saturating GAN loss (Goodfellow et al. 2014), one-sided label smoothing (Salimans et al. 2016)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import GanConfig
from trainer.models.gan import Discriminator, Generator
from trainer.models.parts import Parts
from trainer.objectives.base import Objective, Task


def discriminator_loss(real: Tensor, fake: Tensor, real_target: float) -> Tensor:
    """Binary cross-entropy of the logits (batch,): real images towards ``real_target``, fakes towards 0.

    Only the real side is smoothed: a smoothed fake target would reward the generator for staying where it is.
    """
    targets = torch.full_like(real, real_target)
    on_real = F.binary_cross_entropy_with_logits(real, targets)
    return on_real + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z)) from the logits (batch,): its gradient does not vanish where the discriminator is sure."""
    return F.softplus(-fake).mean()


class GanObjective(Objective):
    """One discriminator step, then one generator step, on the same labels."""

    def __init__(self, task: Task, model: GanConfig) -> None:
        super().__init__(task)
        self.real_target = model.real_target
        generator = Generator(task.image_shape, task.classes, model.width, model.latent)
        discriminator = Discriminator(task.image_shape, task.classes, model.width)
        self.networks = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
        self.place(self.networks)
        self.generator = generator
        self.optimizers = {name: self.make_optimizer(net.parameters()) for name, net in self.networks.items()}
        self.latent_shape = (model.latent,)

    def train_step(self, images: Tensor, label: Tensor, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        generator, discriminator = self.networks["generator"], self.networks["discriminator"]
        z = self.draws.randn(len(images), *self.latent_shape)
        with self.autocast():
            fake = generator(z, label)
            real_logits, fake_logits = discriminator(images, label), discriminator(fake.detach(), label)
        loss_d = discriminator_loss(real_logits.float(), fake_logits.float(), self.real_target)
        self.descend(self.optimizers["discriminator"], loss_d)
        with self.autocast():
            fake_logits = discriminator(fake, label)
        loss_g = generator_loss(fake_logits.float())
        self.descend(self.optimizers["generator"], loss_g)
        return {"discriminator": loss_d.detach(), "generator": loss_g.detach()}

    def parts(self, generator: nn.Module) -> Parts:
        return Parts(self.task.image_shape, self.task.classes, self.latent_shape, decode=generator)
