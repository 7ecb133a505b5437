import pytest
import torch

from tests.trainer.objectives.conftest import MakeObjective
from trainer.model_config import DiscriminatorConfig
from trainer.objectives.adversary import make_adversary
from trainer.objectives.vae import VaeObjective


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e4])
def test_its_gradient_has_the_stated_size_in_any_unit_of_either_loss(
    make_objective: MakeObjective, unit: float
) -> None:
    objective = make_objective("vae")
    assert isinstance(objective, VaeObjective)
    adversary = make_adversary(objective, DiscriminatorConfig(loss="hinge", width=8, weight=0.5))
    of, fake = (torch.randn(4, 1, 28, 28, requires_grad=True) for _ in range(2))
    own, adversarial = unit * of.square().sum(), fake.sin().sum() / unit
    scale = adversary.scale(own, of, adversarial, fake)
    assert not scale.requires_grad
    wanted, found = torch.autograd.grad(own + scale * adversarial, (of, fake))
    assert float(found.norm() / wanted.norm()) == pytest.approx(0.5)
