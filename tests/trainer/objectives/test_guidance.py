"""Guidance that a network learns to include (Meng et al. 2023)."""

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.conftest import without_dropout
from tests.trainer.objectives.conftest import MakeObjective, batch_of, seeded
from trainer.model_config import TeacherConfig
from trainer.objectives.base import Objective, Position
from trainer.objectives.ddpm import DdpmObjective
from trainer.objectives.guidance import GuidedTeacher
from trainer.objectives.ldm import LdmObjective

CLASSES = 10
SETTINGS = TeacherConfig(guidance_scale=3.0, largest_t=0.5)


class Label(nn.Module):
    """Predicts the label everywhere, and 1 without a class."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        value = torch.where(label == CLASSES, 1.0, label.float())
        return value[:, None, None, None].expand_as(x)


@pytest.mark.parametrize(("t", "scale"), [(0.1, 3.0), (0.5, 3.0), (0.501, 1.0), (1.0, 1.0)])
def test_the_teacher_guides_up_to_the_largest_time(t: float, scale: float) -> None:
    label = torch.tensor([5, 0, CLASSES])
    target = GuidedTeacher(Label(), SETTINGS, CLASSES)(torch.zeros(3, 1, 2, 2), torch.full((3,), t), label)
    wanted = torch.tensor([1 + scale * 4, 1 - scale, 1.0])
    assert torch.equal(target, wanted[:, None, None, None].expand(3, 1, 2, 2))


@pytest.fixture(params=["ddpm-guided", "ldm-guided"])
def guided(request: pytest.FixtureRequest, make_objective: MakeObjective) -> Objective:
    return make_objective(request.param)


@pytest.mark.parametrize("name", ["ddpm", "ldm"])
def test_without_a_class_it_starts_at_its_target(make_objective: MakeObjective, name: str) -> None:
    """It starts as a copy of its teacher, which is not guided there; dropout would differ."""
    objective = make_objective(f"{name}-guided", model=without_dropout(f"{name}-guided"))
    images, label = batch_of(16)
    (plain,) = objective.train_step(images, torch.full_like(label, CLASSES), Position(0, 8)).values()
    assert plain == 0.0
    (guided,) = objective.train_step(images, label, Position(1, 8)).values()
    assert guided > 0.0


def test_the_target_is_the_teachers_prediction(guided: Objective) -> None:
    """Of a network that predicts zero: the mean square of what the teacher predicts, whatever the image."""
    assert isinstance(guided, DdpmObjective | LdmObjective)
    teacher, label = GuidedTeacher(Label(), SETTINGS, CLASSES), torch.full((16,), 2)
    images, _ = batch_of(16)
    loss = guided.denoising.loss(lambda x, t, label: torch.zeros_like(x), images, label, seeded(5), teacher)
    t = (guided.denoising.draw_steps(16, seeded(5)) + 1) / 1000
    assert 0 < (t <= 0.5).sum() < 16
    wanted = torch.where(t <= 0.5, 1 + 3 * (2 - 1), 2.0).square().mean()
    torch.testing.assert_close(loss, wanted)


def test_the_teacher_never_changes(guided: Objective) -> None:
    assert isinstance(guided, DdpmObjective | LdmObjective)
    assert guided.teacher is not None
    before = {name: weight.clone() for name, weight in guided.teacher.state_dict().items()}
    guided.train_step(*batch_of(8), Position(0, 8))
    assert all(torch.equal(before[name], weight) for name, weight in guided.teacher.state_dict().items())
    assert not any(weight.requires_grad for weight in guided.teacher.parameters())
