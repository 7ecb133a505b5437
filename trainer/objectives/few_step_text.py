"""Tuning a text-to-image model to few steps, with its guidance included: latent consistency models in pixel space.

Luo et al. 2023, "Latent Consistency Models" (arXiv 2310.04378): the student's prediction of x_start at a time matches
its prediction one step of the guided teacher later. The student thereby learns the end of the guided path, and needs no
second row for guidance.
"""

import torch
from torch import Tensor, nn

from trainer.model_config import FewStepTextConfig
from trainer.models.text_parts import TextParts, TextXStart
from trainer.models.text_unet import TextUNet
from trainer.objectives.base import Position, Task
from trainer.objectives.captioned import CaptionedObjective
from trainer.objectives.ddpm import q_sample
from trainer.objectives.text import TextToImage


class FewStepTextObjective(CaptionedObjective):
    """Consistency of a U-Net with the guided steps of the U-Net that it starts from."""

    def __init__(self, task: Task, model: FewStepTextConfig) -> None:
        super().__init__(task, model.base)
        self.few = model
        self.network = TextToImage(*self.new_networks())
        self.network.encoder.requires_grad_(False)
        self.generator = self.place(self.network)
        teacher = self.place(self.new_networks()[1]).requires_grad_(False)
        assert isinstance(teacher, TextUNet)
        self.teacher = self._x_start(teacher)
        self.student = self._x_start(self.network.unet)
        self.networks = nn.ModuleDict({"text": self.network, "teacher": teacher})
        self.optimizers = {"unet": self.make_optimizer(self.network.unet.parameters())}

    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:  # noqa: ARG002
        self.network.load_state_dict(averages)
        self.teacher.network.load_state_dict(self.network.unet.state_dict())

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:  # noqa: ARG002
        step = self.denoising.draw_steps(len(images), self.draws)
        noise = self.draws.randn_like(images)
        network, alpha, sigma = self.network.eval(), self.denoising.alpha, self.denoising.sigma
        x = q_sample(images, noise, alpha[step], sigma[step])
        with torch.no_grad(), self.autocast():
            context = self._contexts(network, *self.draw_captions(label))
            no_caption = self.captions_of(torch.full_like(label, -1), torch.zeros_like(label))  # of the last row
            empty = self._contexts(network, *no_caption)
            target = self._target(x, step, context, empty)
        with self.autocast():
            predicted = self.student(x, self._times(step), *context).float()
        squared = (predicted - target).square().flatten(1).mean(dim=1)
        # Pseudo-Huber, so that no single image dominates the gradient (Song & Dhariwal 2024, arXiv 2310.14189).
        loss = ((squared + self.few.huber**2).sqrt() - self.few.huber).mean()
        self.descend(self.optimizers["unet"], loss)
        return {"consistency": loss.detach()}

    def parts(self, generator: nn.Module) -> TextParts:
        assert isinstance(generator, TextToImage)
        return self.text_parts(generator.encoder, self._x_start(generator.unet))

    def _target(self, x: Tensor, step: Tensor, context: tuple[Tensor, Tensor], empty: tuple[Tensor, Tensor]) -> Tensor:
        """The student's prediction after one guided DDIM step; if that step ends at t = 0, the teacher's."""
        t = self._times(step)
        conditional, plain = self.teacher(x, t, *context).float(), self.teacher(x, t, *empty).float()
        guided = (plain + self.few.guidance * (conditional - plain)).clamp(-1.0, 1.0)
        alpha, sigma = self.denoising.alpha, self.denoising.sigma
        stride = len(alpha) // self.few.teacher_steps
        lower = step - stride
        below = lower.clamp(min=0)
        noise = (x - alpha[step][:, None, None, None] * guided) / sigma[step][:, None, None, None]
        noised = q_sample(guided, noise, alpha[below], sigma[below])
        predicted = self.student(noised, self._times(below), *context).float().clamp(-1.0, 1.0)
        return torch.where((lower >= 0)[:, None, None, None], predicted, guided)

    def _times(self, step: Tensor) -> Tensor:
        return (step + 1) / len(self.denoising.alpha)

    def _x_start(self, unet: nn.Module) -> TextXStart:
        of = self.denoising
        return TextXStart(unet, of.alpha, of.sigma, of.config.prediction).to(self.task.device)

    @staticmethod
    def _contexts(network: TextToImage, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return network.encoder(tokens, mask), mask
