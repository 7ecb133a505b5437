"""Pictures from parts."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.conftest import MakeRun
from trainer.generate import BATCH_PIXELS, NotFinite, default_plan, draw_grid, generate, grid_classes


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_picture(make_run: MakeRun, tmp_path: Path, number: float) -> None:
    class Gives(nn.Module):
        def forward(self, z: Tensor, label: Tensor) -> Tensor:
            return torch.full((len(z), 1, 28, 28), number)

    run = make_run("gan", tmp_path)
    parts = dataclasses.replace(run.objective.parts(run.objective.generator.eval()), decode=Gives())
    with pytest.raises(NotFinite):
        generate(parts, torch.zeros(2, dtype=torch.int64), [0, 1], default_plan(parts))


@pytest.mark.parametrize(("classes", "shown"), [(0, []), (1, [0]), (10, list(range(10))), (32, list(range(0, 32, 2)))])
def test_a_grid_shows_all_classes_or_some_from_all_over(classes: int, shown: list[int]) -> None:
    assert grid_classes(classes) == shown


def test_a_grid_of_many_classes_is_bounded_and_drawn_a_few_at_a_time(make_run: MakeRun, tmp_path: Path) -> None:
    """The value of each picture is its label: the columns tell the classes, and each class has eight rows."""
    batches: list[int] = []

    class Gives(nn.Module):
        def forward(self, z: Tensor, label: Tensor) -> Tensor:
            batches.append(len(z))
            return (label / 150 - 1)[:, None, None, None].expand(-1, 1, 28, 28)

    run = make_run("gan", tmp_path)
    parts = dataclasses.replace(run.objective.parts(run.objective.generator.eval()), decode=Gives(), classes=300)
    grid = draw_grid(parts, torch.device("cpu"), None)
    assert grid.shape[1:] == (8 * 30 + 2, 16 * 30 + 2)
    assert max(batches) * 28 * 28 <= BATCH_PIXELS
    assert sum(batches) == 8 * 16
    levels = grid[0, 2::30, 2::30]
    assert torch.equal(levels, levels[:1].expand(8, -1))
    assert len(set(levels[0].tolist())) == 16
