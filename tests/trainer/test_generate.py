"""Pictures from parts."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.conftest import MakeRun
from trainer.generate import NotFinite, default_plan, generate


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_picture(make_run: MakeRun, tmp_path: Path, number: float) -> None:
    class Gives(nn.Module):
        def forward(self, z: Tensor, label: Tensor) -> Tensor:
            return torch.full((len(z), 1, 28, 28), number)

    run = make_run("gan", tmp_path)
    parts = dataclasses.replace(run.objective.parts(run.objective.generator.eval()), decode=Gives())
    with pytest.raises(NotFinite):
        generate(parts, torch.zeros(2, dtype=torch.int64), [0, 1], default_plan(parts))
