"""Tuning a diffusion model to one to four steps: easy consistency tuning (Geng et al. 2024, arXiv 2406.14548).

The network keeps its inputs and its parameterisation. Its prediction of x_start at a timestep is trained to match its
own prediction at a less noisy timestep of the same image and noise. The gap between the two shrinks during the run. A
discriminator of the predictions keeps them sharp where consistency alone averages (Kim et al. 2024, "Consistency
Trajectory Models", arXiv 2310.02279, section 4.2).
"""

import torch
from torch import Tensor

from trainer.model_config import DiscriminatorConfig, FewStepConfig
from trainer.objectives.adversary import make_adversary
from trainer.objectives.base import Position, Task
from trainer.objectives.ddpm import DdpmObjective, q_sample


class FewStepObjective(DdpmObjective):
    """The network and parts of the base model, trained for consistent predictions of x_start."""

    def __init__(self, task: Task, model: FewStepConfig) -> None:
        super().__init__(task, model.base)
        self.model = model
        self.x_start = self.denoising.x_start(self.generator).to(task.device)
        self._first_step = round(self.denoising.diffusion.t_max * len(self.denoising.alpha)) - 1

    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:  # noqa: ARG002
        self.generator.load_state_dict(averages)

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        loss, _ = self._consistency(images, label, at)
        self.descend(self.optimizers["unet"], loss)
        return {"consistency": loss.detach()}

    def gap(self, progress: float) -> float:
        """The relative difference of the two times, 1 - r / t: it halves from each of ``stages`` stages to the next."""
        return self.model.first_gap * 0.5 ** int(progress * self.model.stages)

    def _consistency(self, images: Tensor, label: Tensor, at: Position) -> tuple[Tensor, Tensor]:
        """The loss, and the predictions (batch, channel, height, width) of which it is."""
        step = self._draw_steps(len(images))
        noise = self.draws.randn_like(images)
        with self.autocast():
            with torch.no_grad():
                target = self._target(images, noise, label, step, self.gap(at.progress))
            predicted = self._predict(images, noise, label, step)
        t = (step + 1) / len(self.denoising.alpha)
        squared = (predicted - target).square().flatten(1).sum(dim=1)
        # Pseudo-Huber, so that no single image dominates the gradient (Song & Dhariwal 2024, arXiv 2310.14189).
        loss = (((squared + self.model.huber**2).sqrt() - self.model.huber) / t).mean()
        return loss, predicted

    def _draw_steps(self, count: int) -> Tensor:
        """Random timesteps (count,) int64; a share ``pure_noise`` of them is that at which sampling starts."""
        step = self.denoising.draw_steps(count, self.draws)
        if not self.model.pure_noise:
            return step
        return torch.where(self.draws.rand(count) < self.model.pure_noise, self._first_step, step)

    def _target(self, images: Tensor, noise: Tensor, label: Tensor, step: Tensor, gap: float) -> Tensor:
        """The prediction at the less noisy timestep; the image itself when there is no timestep below."""
        less = ((step + 1) * (1.0 - gap)).floor().long() - 1
        predicted = self._predict(images, noise, label, less.clamp(min=0))
        return torch.where((less >= 0)[:, None, None, None], predicted, images)

    def _predict(self, images: Tensor, noise: Tensor, label: Tensor, step: Tensor) -> Tensor:
        alpha, sigma = self.denoising.alpha, self.denoising.sigma
        x = q_sample(images, noise, alpha[step], sigma[step])
        x_start: Tensor = self.x_start(x, (step + 1) / len(alpha), label)
        return x_start.float().clamp(-1.0, 1.0)


class AdversarialFewStepObjective(FewStepObjective):
    """Consistency tuning with a discriminator of the predictions."""

    accumulates = False

    def __init__(self, task: Task, model: FewStepConfig, discriminator: DiscriminatorConfig) -> None:
        super().__init__(task, model)
        self.adversary = make_adversary(self, discriminator)

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        consistency, predicted = self._consistency(images, label, at)
        losses = {"discriminator": self.adversary.train_step(images, predicted.detach(), label, at.step)}
        adversarial = self.adversary.generator_loss(images, predicted, label)
        scale = self.adversary.scale(consistency, predicted, adversarial, predicted)
        self.descend(self.optimizers["unet"], consistency + scale * adversarial)
        return {**losses, "consistency": consistency.detach(), "adversarial": adversarial.detach()}
