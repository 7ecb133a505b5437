"""One batch, and any objective on it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import MakeConfig
from trainer.compute.draws import Draws
from trainer.objectives import Objective, build

MakeObjective = Callable[..., Objective]


def batch_of(count: int) -> tuple[Tensor, Tensor]:
    """Pictures (count, 1, 28, 28) in [-1, 1] and labels, "no class" among them."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 28, 28, generator=generator) * 2 - 1, torch.arange(count) % 11


def seeded(seed: int = 0) -> Draws:
    """A whole batch's draws, as after ``Objective.begin_micro_batch(seed)``."""
    draws = Draws(torch.device("cpu"))
    draws.restart(seed)
    return draws


@pytest.fixture(scope="session")
def make_objective(make_config: MakeConfig, averages: dict[str, dict[str, Tensor]]) -> MakeObjective:
    """(a name of MODELS, **replaced fields of the config) -> its objective at its start, on the CPU."""

    def make(name: str, **replaced: Any) -> Objective:
        objective = build(make_config(name, **replaced), (1, 28, 28), 10, torch.device("cpu"))
        if name in averages:
            objective.start_from(averages[name], *batch_of(32))
        return objective

    return make
