from pathlib import Path

import pytest
import torch
from torch import nn

from service.contract.manifest import Golden
from service.models.golden import check_golden, draw
from service.models.torchscript import load_model
from tests.service.artefacts import Decode, write_one_shot
from tests.service.engine.conftest import CPU, set_golden


@pytest.mark.parametrize("change", [0, 1])
def test_the_golden_picture_may_differ_by_a_level(weights: Path, change: int) -> None:
    set_golden(weights / "vae", change)
    check_golden(load_model(weights / "vae", CPU))


def test_another_picture_is_refused(weights: Path) -> None:
    set_golden(weights / "vae", change=2)
    with pytest.raises(ValueError, match=r"differs from the golden one by 2\.0 grey levels"):
        check_golden(load_model(weights / "vae", CPU))


def test_a_golden_picture_is_drawn_as_it_says_and_not_by_the_models_defaults(weights: Path) -> None:
    model = load_model(weights / "ddpm", CPU)
    pictures = [
        draw(model, Golden(seed=seed, class_label=label, steps=steps, solver="ddim", picture=""))
        for seed, label, steps in ((1, 0, 4), (2, 0, 4), (1, 1, 4), (1, 0, 9))
    ]
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert {picture.shape for picture in pictures} == {(8, 8, 1)}


class Filled(Decode):
    """Weights that are all the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full_like(self.weight.detach(), value))


@pytest.mark.parametrize(("value", "reason"), [(0.0, "only one grey level, 128"), (float("nan"), "not finite")])
def test_without_a_golden_picture_there_must_be_one_at_all(tmp_path: Path, value: float, reason: str) -> None:
    write_one_shot(tmp_path, "vae", Filled(value))
    with pytest.raises(ValueError, match=reason):
        check_golden(load_model(tmp_path / "vae", CPU))
