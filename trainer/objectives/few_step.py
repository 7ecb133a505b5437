"""Tuning a diffusion model to one to four steps: distribution matching (Yin et al. 2024, arXiv 2311.18828).

Further networks learn the score of the generated images while the generator changes. Where it differs from the score of
the diffusion model, the generator's images are too likely or too rare, and the difference is the gradient with which
they move. Later steps start from the generator's own images, as they do in sampling (Yin et al. 2024, arXiv 2405.14867,
section 4.5).
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
#: The networks of the scores: one for each kind of image. A common one would match the mixture of both, where one kind
#: could be too varied and the other not varied enough.
SCORES = ("score_first", "score_later")
#: The later steps of samplers of two and four steps are at multiples of 1 / QUARTERS.
QUARTERS = 4


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

    ``networks`` are the generator "unet", the frozen "teacher", and the SCORES; all start as the base.
    """

    accumulates = False

    def __init__(self, task: Task, model: FewStepConfig) -> None:
        super().__init__(task, model.base)
        self.networks["teacher"] = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.networks.update({name: copy.deepcopy(self.generator) for name in SCORES})
        weights = [weight for name in SCORES for weight in self.networks[name].parameters()]
        self.optimizers["scores"] = self.make_optimizer(weights, model.score_rate)
        self.score_updates = model.score_updates
        self._first_step = round(self.denoising.diffusion.t_max * len(self.denoising.alpha)) - 1

    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:  # noqa: ARG002
        for network in self.networks.values():
            network.load_state_dict(averages)

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:  # noqa: ARG002
        with self.autocast():
            generated = dict(zip(SCORES, self.generate(images, label), strict=True))
        for _ in range(self.score_updates):
            score = self._learn_scores(generated, label)
        gradients = {name: self.gradient(name, image.detach(), label) for name, image in generated.items()}
        moved = [(image * gradients[name]).flatten(1).sum(dim=1).mean() for name, image in generated.items()]
        self.descend(self.optimizers["unet"], torch.stack(moved).mean())
        difference = torch.stack([gradient.abs().mean() for gradient in gradients.values()]).mean()
        return {"score_mse": score, "difference": difference}

    def _learn_scores(self, generated: dict[str, Tensor], label: Tensor) -> Tensor:
        """A step of the networks of SCORES on their kinds of ``generated`` images; returns the loss."""
        with self.autocast():
            losses = [
                self.denoising.loss(self.networks[name], image.detach(), label, self.draws)
                for name, image in generated.items()
            ]
        loss = torch.stack(losses).mean()
        self.descend(self.optimizers["scores"], loss)
        return loss.detach()

    def generate(self, images: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Images of the first step and of a later one that starts from them, in [-1, 1] like ``images``."""
        start = torch.full_like(label, self._first_step)
        first = self._x_start("unet", images, label, start)
        quarter = self.draws.randint(QUARTERS - 1, len(images)) + 1
        return first, self._x_start("unet", first.detach(), label, (self._first_step + 1) * quarter // QUARTERS - 1)

    @torch.no_grad()
    def gradient(self, score: str, generated: Tensor, label: Tensor) -> Tensor:
        """The matching gradient of ``generated`` images, whose score the network ``score`` of SCORES has learned."""
        t = LEAST_T + (LARGEST_T - LEAST_T) * self.draws.rand(len(generated))
        step, noise = (t * len(self.denoising.alpha)).long(), self.draws.randn_like(generated)
        with self.autocast():
            real, fake = (self._x_start(name, generated, label, step, noise) for name in ("teacher", score))
        return matching_gradient(generated, real, fake)

    def _x_start(self, name: str, images: Tensor, label: Tensor, step: Tensor, noise: Tensor | None = None) -> Tensor:
        """The prediction of the network ``name`` from ``images``, noised to the timesteps ``step`` (batch,)."""
        alpha, sigma = self.denoising.alpha, self.denoising.sigma
        noise = self.draws.randn_like(images) if noise is None else noise
        x = q_sample(images, noise, alpha[step], sigma[step])
        x_start = self.denoising.x_start(self.networks[name])
        predicted: Tensor = x_start(x, (step + 1) / len(alpha), label)
        return predicted.float().clamp(-1.0, 1.0)
