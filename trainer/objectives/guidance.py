"""Guidance that a diffusion model learns to include: it then needs one forward pass per step (Meng et al. 2023).

Guidance at all times narrows the variety of images: it is limited to the less noisy ones, where the outline is settled
(Kynkäänniemi et al. 2024, arXiv 2404.07724).
"""

import copy

import torch
from torch import Tensor, nn

from trainer.model_config import TeacherConfig
from trainer.objectives.base import Objective


class GuidedTeacher(nn.Module):
    """The network that a run starts from, frozen, with classifier-free guidance (Ho & Salimans 2022).

    ``forward(x, t, label)``: (batch, *latent), (batch,), (batch,) int64 -> the guided prediction, shaped like ``x``.
    Rows without a class have nothing to be guided by; their prediction is that of the network.
    """

    def __init__(self, network: nn.Module, settings: TeacherConfig, classes: int) -> None:
        super().__init__()
        self.network, self.settings, self.classes = network, settings, classes
        self.network.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        conditional: Tensor = self.network(x, t, label).float()
        plain = self.network(x, t, torch.full_like(label, self.classes)).float()
        scale = torch.where(t <= self.settings.largest_t, self.settings.guidance_scale, 1.0)[:, None, None, None]
        guided: Tensor = plain + scale * (conditional - plain)
        return guided


def make_teacher(objective: Objective, network: nn.Module, settings: TeacherConfig | None) -> GuidedTeacher | None:
    """A copy of ``network`` as a teacher with ``settings``, added to the networks of ``objective``."""
    if settings is None:
        return None
    teacher = GuidedTeacher(copy.deepcopy(network), settings, objective.task.classes)
    objective.networks["teacher"] = teacher
    return teacher
