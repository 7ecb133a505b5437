"""What each family minimises. `build` is the only door: nobody else names a class of this package."""

import torch

from trainer.config import DdpmConfig, GanConfig, RunConfig
from trainer.objectives.base import Objective, Task
from trainer.objectives.ddpm import DdpmObjective
from trainer.objectives.gan import GanObjective
from trainer.objectives.vae import VaeObjective


def build(config: RunConfig, image_shape: tuple[int, int, int], classes: int, device: torch.device) -> Objective:
    """The objective of a run, its networks initialised from ``config.seed`` and on ``device``."""
    torch.manual_seed(config.seed)
    task = Task(config, image_shape, classes, device)
    if isinstance(config.model, DdpmConfig):
        return DdpmObjective(task, config.model)
    if isinstance(config.model, GanConfig):
        return GanObjective(task, config.model)
    return VaeObjective(task, config.model)


__all__ = ["Objective", "build"]
