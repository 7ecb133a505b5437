"""Tuning a diffusion model to one to four steps: distribution matching (Yin et al. 2024, arXiv 2311.18828).

A third network learns the score of the generated images while the generator changes. Where it differs from the score of
the diffusion model, the generator's images are too likely or too rare, and the difference is the gradient with which
they move. Images at intermediate noise are matched too, so that the generator also takes more than one step (Yin et al.
2024, arXiv 2405.14867, section 4.4).
"""

import copy

import torch
from torch import Tensor

from trainer.model_config import FewStepConfig
from trainer.objectives.base import Position, Task
from trainer.objectives.ddpm import DdpmObjective, q_sample

#: Bounds of the times at which scores are compared: at the ends they hardly differ.
LEAST_T, LARGEST_T = 0.02, 0.98
#: Lower bound of an image's mean error that divides its gradient.
LEAST_ERROR = 0.02


def matching_gradient(images: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The gradient of the divergence from the real distribution at generated ``images``, up to a factor.

    ``real`` and ``fake`` are predictions of x_start from the noised images by the networks of the two distributions;
    all are (batch, channel, height, width). The division makes the size of a row's gradient independent of its noise
    (Yin et al. 2024, arXiv 2311.18828, equation 8).
    """
    error = (images - real).abs().mean(dim=(1, 2, 3), keepdim=True)
    return (fake - real) / error.clamp(min=LEAST_ERROR)


class FewStepObjective(DdpmObjective):
    """A generator with the network and parts of the diffusion model ``base``, which is its teacher.

    ``networks`` are the generator "unet", the frozen "teacher", and "score", that of the generated images; all three
    start as the base.
    """

    accumulates = False

    def __init__(self, task: Task, model: FewStepConfig) -> None:
        super().__init__(task, model.base)
        self.model = model
        self.networks["teacher"] = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.networks["score"] = copy.deepcopy(self.generator)
        self.optimizers["score"] = self.make_optimizer(self.networks["score"].parameters())
        for group in self.optimizers["score"].param_groups:
            group["rate"] = model.score_rate
        self._first_step = round(self.denoising.diffusion.t_max * len(self.denoising.alpha)) - 1

    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:  # noqa: ARG002
        for network in self.networks.values():
            network.load_state_dict(averages)

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:  # noqa: ARG002
        with self.autocast():
            generated = self._generate(images, label)
            score = self.denoising.loss(self.networks["score"], generated.detach(), label, self.draws)
        self.descend(self.optimizers["score"], score)
        gradient = self._gradient(generated.detach(), label)
        self.descend(self.optimizers["unet"], (generated * gradient).flatten(1).sum(dim=1).mean())
        return {"score_mse": score.detach(), "difference": gradient.abs().mean()}

    def _generate(self, images: Tensor, label: Tensor) -> Tensor:
        """Images of one step each, in [-1, 1], from pure noise or from noised ``images``."""
        step, noise = self._draw_steps(len(images)), self.draws.randn_like(images)
        return self._x_start("unet", images, noise, label, step)

    def _draw_steps(self, count: int) -> Tensor:
        """Random timesteps (count,) int64; a share ``pure_noise`` of them is that at which sampling starts."""
        step = self.denoising.draw_steps(count, self.draws)
        return torch.where(self.draws.rand(count) < self.model.pure_noise, self._first_step, step)

    @torch.no_grad()
    def _gradient(self, generated: Tensor, label: Tensor) -> Tensor:
        t = LEAST_T + (LARGEST_T - LEAST_T) * self.draws.rand(len(generated))
        step, noise = (t * len(self.denoising.alpha)).long(), self.draws.randn_like(generated)
        with self.autocast():
            real, fake = (self._x_start(name, generated, noise, label, step) for name in ("teacher", "score"))
        return matching_gradient(generated, real, fake)

    def _x_start(self, name: str, images: Tensor, noise: Tensor, label: Tensor, step: Tensor) -> Tensor:
        """The prediction of the network ``name`` from ``images``, noised to the timesteps ``step`` (batch,)."""
        alpha, sigma = self.denoising.alpha, self.denoising.sigma
        x = q_sample(images, noise, alpha[step], sigma[step])
        x_start = self.denoising.x_start(self.networks[name])
        predicted: Tensor = x_start(x, (step + 1) / len(alpha), label)
        return predicted.float().clamp(-1.0, 1.0)
