"""What every family's objective has."""

from itertools import chain

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import OPTIMIZER, VARIANTS
from tests.trainer.objectives.conftest import MakeObjective, batch_of
from trainer.objectives.base import Position


@pytest.fixture(params=VARIANTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_moves_every_trained_weight_and_reports_finite_float32_losses(
    make_objective: MakeObjective, name: str, precision: str
) -> None:
    optimizer = OPTIMIZER | {"weight_decay": 0.0}
    objective = make_objective(name, precision=precision, optimizer=optimizer)
    trained = [(name, weight) for name, weight in objective.networks.named_parameters() if weight.requires_grad]
    before = {name: weight.detach().clone() for name, weight in trained}
    steps = 9 if name == "wgan-gp" else 3  # what lies behind layers that start at zero moves when those have moved
    for step in range(steps):
        losses = objective.train_step(*batch_of(11), Position(step, steps))
    assert all(loss.dtype == torch.float32 and loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    assert not any(loss.requires_grad for loss in losses.values())
    still = {name for name, weight in trained if torch.equal(weight, before[name])}
    # These losses, hinge before a margin is met, only know differences of logits.
    relative = name in ("gan", "hinge", "wgan-gp") or name.endswith("-adversarial")
    assert still == ({"discriminator.out.bias"} if relative else set())
    assert {id(weight) for _, weight in trained} == {
        id(weight)
        for optimizer in objective.optimizers.values()
        for weight in chain.from_iterable(group["params"] for group in optimizer.param_groups)
    }


def test_the_seed_decides_the_start(make_objective: MakeObjective, name: str) -> None:
    def weights(seed: int) -> Tensor:
        objective = make_objective(name, seed=seed)
        return torch.cat([weight.flatten() for weight in objective.networks.parameters()])

    one, other = weights(1), weights(2)
    assert torch.equal(one, weights(1))
    begun = (
        "few-step",
        "ddpm-guided",
        "ldm-guided",
    )  # all of their network comes from the run that they began with
    assert torch.equal(one, other) == (name in begun)


def test_steps_are_clipped(make_objective: MakeObjective) -> None:
    objective = make_objective("vae")
    optimizer = objective.optimizers["vae"]
    weights = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
    objective.descend(optimizer, torch.stack([weight.square().sum() for weight in weights]).sum() * 1e6)
    norm = torch.stack([weight.grad.square().sum() for weight in weights]).sum().sqrt()
    assert norm == pytest.approx(1.0, rel=1e-4)


def test_a_position_is_a_share_of_the_run() -> None:
    assert [Position(step, 4).progress for step in (0, 1, 3)] == [0.0, 0.25, 0.75]
