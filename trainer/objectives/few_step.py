"""Tuning a diffusion model to one to four steps: easy consistency tuning (Geng et al. 2024, arXiv 2406.14548).

The network keeps its inputs and its parameterisation. Its prediction of x_start at a step is drawn towards its own
prediction at a less noisy step of the same picture and noise; the two move together as the run goes on.
"""

import torch
from torch import Tensor

from trainer.config import FewStepConfig
from trainer.objectives.base import Position, Task
from trainer.objectives.ddpm import DdpmObjective, q_sample


class FewStepObjective(DdpmObjective):
    """Self-consistency of a U-Net's predictions of x_start: the network and the parts of its base, another loss."""

    def __init__(self, task: Task, model: FewStepConfig) -> None:
        super().__init__(task, model.base)
        self.model = model
        self.x_start = self.denoising.x_start(self.generator).to(task.device)

    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:  # noqa: ARG002
        self.generator.load_state_dict(averages)

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        step = self.denoising.draw_steps(len(images), self.draws)
        noise = self.draws.randn_like(images)
        with self.autocast():
            with torch.no_grad():
                target = self._target(images, noise, label, step, self.gap(at.progress))
            predicted = self._predict(images, noise, label, step)
        t = (step + 1) / len(self.denoising.alpha)
        squared = (predicted - target).square().flatten(1).sum(dim=1)
        # Pseudo-Huber, so that no single picture decides the gradient (Song & Dhariwal 2024, arXiv 2310.14189).
        loss = (((squared + self.model.huber**2).sqrt() - self.model.huber) / t).mean()
        self.descend(self.optimizers["unet"], loss)
        return {"consistency": loss.detach()}

    def gap(self, share: float) -> float:
        """The part of its noise that the less noisy of the two has lost: ``stages`` parts, each half the one before."""
        return 0.5 ** (1 + int(share * self.model.stages))

    def _target(self, images: Tensor, noise: Tensor, label: Tensor, step: Tensor, gap: float) -> Tensor:
        """The prediction at the less noisy step; where none is left between it and the picture, the picture."""
        less = ((step + 1) * (1.0 - gap)).floor().long() - 1
        predicted = self._predict(images, noise, label, less.clamp(min=0))
        return torch.where((less >= 0)[:, None, None, None], predicted, images)

    def _predict(self, images: Tensor, noise: Tensor, label: Tensor, step: Tensor) -> Tensor:
        alpha, sigma = self.denoising.alpha, self.denoising.sigma
        x = q_sample(images, noise, alpha[step], sigma[step])
        x_start: Tensor = self.x_start(x, (step + 1) / len(alpha), label)
        return x_start.float().clamp(-1.0, 1.0)
