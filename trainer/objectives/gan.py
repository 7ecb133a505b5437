"""Generative adversarial networks: a generator of images from latent vectors, and its adversary."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from trainer.model_config import GanConfig
from trainer.models import dcgan, gan
from trainer.models.parts import Parts
from trainer.models.pyramid import Decoder, Layout
from trainer.objectives.adversary import Adversary
from trainer.objectives.base import Objective, Position, Task


class GanObjective(Objective):
    """A discriminator step, and after every ``critic_steps`` of them a generator step on the same labels."""

    def __init__(self, task: Task, model: GanConfig) -> None:
        super().__init__(task)
        self.critic_steps = model.critic_steps
        self.networks = _networks(task, model)
        self.place(self.networks)
        self.generator = self.networks["generator"]
        self.adversary = Adversary(self, self.networks["discriminator"], model)
        self.optimizers = {
            "generator": self.make_optimizer(self.generator.parameters()),
            "discriminator": self.adversary.optimizer,
        }
        self.latent_shape = (model.latent,)

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        z = self.draws.randn(len(images), *self.latent_shape)
        with self.autocast():
            fake = self.generator(z, label)
        losses = {"discriminator": self.adversary.train_step(images, fake.detach().float(), label, at.step)}
        if (at.step + 1) % self.critic_steps == 0:
            loss = self.adversary.generator_loss(images, fake, label)
            self.descend(self.optimizers["generator"], loss)
            losses["generator"] = loss.detach()
        return losses

    def parts(self, generator: nn.Module) -> Parts:
        return Parts(self.task.image_shape, self.task.classes, self.latent_shape, decode=generator)


def _networks(task: Task, model: GanConfig) -> nn.ModuleDict:
    shape, classes = task.image_shape, task.classes
    if model.network == "dcgan":
        generator: nn.Module = dcgan.Generator(shape, classes, model.width, model.latent)
        discriminator: nn.Module = dcgan.Discriminator(shape, classes, model.width)
    else:
        generator = Decoder(Layout(shape, classes, (model.latent,), model.width, model.blocks, model.patch))
        discriminator = gan.Discriminator(shape, classes, model.width, model.blocks, model.patch)
    if model.spectral_norm:
        for layer in discriminator.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                if not layer.weight.any():
                    layer.reset_parameters()  # spectral normalisation would divide by a norm of zero
                spectral_norm(layer)
    return nn.ModuleDict({"generator": generator, "discriminator": discriminator})
