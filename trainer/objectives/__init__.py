"""The objective of each family. Other packages use `build` and `Objective` only."""

import torch

from trainer.config import RunConfig
from trainer.model_config import (
    ControlConfig,
    DdpmConfig,
    FewStepConfig,
    FewStepTextConfig,
    GanConfig,
    LdmConfig,
    TextConfig,
)
from trainer.objectives.base import Objective, Task
from trainer.objectives.control import ControlObjective
from trainer.objectives.ddpm import DdpmObjective
from trainer.objectives.few_step import FewStepObjective
from trainer.objectives.few_step_text import FewStepTextObjective
from trainer.objectives.gan import GanObjective
from trainer.objectives.ldm import LdmObjective
from trainer.objectives.text import TextObjective
from trainer.objectives.vae import VaeObjective


def build(config: RunConfig, image_shape: tuple[int, int, int], classes: int, device: torch.device) -> Objective:
    """The objective of a run; its networks are initialised from ``config.seed`` and placed on ``device``."""
    torch.manual_seed(config.seed)
    task, model = Task(config, image_shape, classes, device), config.model
    if isinstance(model, DdpmConfig):
        return DdpmObjective(task, model)
    if isinstance(model, GanConfig):
        return GanObjective(task, model)
    if isinstance(model, LdmConfig):
        return LdmObjective(task, model)
    if isinstance(model, FewStepConfig):
        return FewStepObjective(task, model)
    if isinstance(model, TextConfig):
        return TextObjective(task, model)
    if isinstance(model, FewStepTextConfig):
        return FewStepTextObjective(task, model)
    if isinstance(model, ControlConfig):
        return ControlObjective(task, model)
    return VaeObjective(task, model)


__all__ = ["Objective", "build"]
