"""Easy consistency tuning (Geng et al. 2024, arXiv 2406.14548)."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.conftest import MODELS
from tests.trainer.objectives.conftest import MakeObjective, batch_of, seeded
from trainer.objectives.base import Position
from trainer.objectives.ddpm import q_sample
from trainer.objectives.few_step import AdversarialFewStepObjective, FewStepObjective

POINT = 0.3


@pytest.fixture
def objective(make_objective: MakeObjective) -> FewStepObjective:
    objective = make_objective("few-step")
    assert isinstance(objective, FewStepObjective)
    return objective


class Exact(nn.Module):
    """The velocity whose x_start is ``point`` everywhere: the consistency function of data that is that one point."""

    def __init__(self, point: float) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor(point))
        self.times: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.times.append(t)
        return (x - self.point) / t[:, None, None, None]


def step_of(objective: FewStepObjective, network: nn.Module, share: float, images: Tensor) -> tuple[float, list[Any]]:
    """The loss of one step of ``network``, and that of the gradients it would have descended along."""
    gradients: list[Any] = []

    def record(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        gradients.extend(torch.autograd.grad(loss, list(network.parameters())))

    objective.x_start.network = network
    objective.descend = record  # type: ignore[method-assign]
    losses = objective.train_step(images, torch.zeros(len(images), dtype=torch.int64), Position(int(share * 100), 100))
    return float(losses["consistency"]), gradients


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_the_exact_consistency_function_has_nothing_to_lose(objective: FewStepObjective, share: float) -> None:
    images = torch.full((32, 1, 4, 4), POINT)
    loss, gradients = step_of(objective, Exact(POINT), share, images)
    assert loss == pytest.approx(0.0, abs=1e-5)
    assert float(gradients[0]) == pytest.approx(0.0, abs=1e-3)


def test_the_gap_is_halved_in_every_stage(objective: FewStepObjective) -> None:
    stages = MODELS["few-step"]["stages"]
    gaps = [objective.gap(step / 1000) for step in range(1000)]
    assert gaps == [0.5 ** (1 + step * stages // 1000) for step in range(1000)]
    assert sorted(set(gaps)) == [0.5**power for power in range(stages, 0, -1)]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_target_is_less_noisy_by_the_gap(objective: FewStepObjective, share: float) -> None:
    network = Exact(POINT)
    step_of(objective, network, share, torch.full((256, 1, 4, 4), POINT))
    less, more = ((1000 * t).round() for t in network.times)
    assert torch.equal(less, (more * (1 - objective.gap(share))).floor().clamp(min=1))


def test_where_no_noise_is_left_the_target_is_the_picture(objective: FewStepObjective) -> None:
    """A function that answers with one point regardless is consistent with itself, but not with the pictures."""
    objective.denoising.draw_steps = lambda count, draws: torch.zeros(count, dtype=torch.int64)  # type: ignore[method-assign]
    images = torch.full((8, 1, 4, 4), -0.5)
    loss, gradients = step_of(objective, Exact(POINT), 0.0, images)
    distance = (16 * (POINT + 0.5) ** 2 + 0.9**2) ** 0.5 - 0.9
    assert loss == pytest.approx(distance / 0.001, rel=1e-3)
    assert float(gradients[0]) > 0
    objective.denoising.draw_steps = lambda count, draws: torch.full((count,), 500)  # type: ignore[method-assign]
    loss, _ = step_of(objective, Exact(POINT), 0.0, images)
    assert loss == pytest.approx(0.0, abs=1e-5)


def test_the_gradient_is_the_predictions_and_not_the_targets(objective: FewStepObjective) -> None:
    """With both free, moving the point would change neither: with the target held, it does."""
    objective.denoising.draw_steps = lambda count, draws: torch.full((count,), 500)  # type: ignore[method-assign]

    class Drifting(Exact):
        """Answers that depend on the time, so that the two predictions differ."""

        def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            return (x - self.point * (1 + t[:, None, None, None])) / t[:, None, None, None]

    _, gradients = step_of(objective, Drifting(POINT), 0.0, torch.zeros(4, 1, 4, 4))
    t, less = 0.501, 0.25
    distance = POINT * (t - less)
    # d/d point of sqrt(16 distance^2 + huber^2) / t with the target held: the prediction is point (1 + t).
    wanted = 16 * distance * (1 + t) / ((16 * distance**2 + 0.9**2) ** 0.5) / t
    assert float(gradients[0]) == pytest.approx(wanted, rel=1e-3)


def test_the_loss_is_pseudo_huber_over_t(objective: FewStepObjective) -> None:
    """Of a U-Net that predicts no velocity, as one does at first: its x_start is x itself, clamped."""
    images, label = batch_of(16)
    objective.begin_micro_batch(5)
    loss = objective.train_step(images, label, Position(0, 8))["consistency"]
    draws = seeded(5)
    step, noise = objective.denoising.draw_steps(16, draws), draws.randn_like(images)
    less = ((step + 1) // 2) - 1
    alpha, sigma = objective.denoising.alpha, objective.denoising.sigma
    predicted, target = (q_sample(images, noise, alpha[s], sigma[s]).clamp(-1, 1) for s in (step, less))
    squared = (predicted - target).square().sum(dim=(1, 2, 3))
    wanted = (((squared + 0.9**2).sqrt() - 0.9) / ((step + 1) / 1000)).mean()
    torch.testing.assert_close(loss, wanted)


def test_it_begins_with_the_averages_of_its_base(
    objective: FewStepObjective, averages: dict[str, dict[str, Tensor]]
) -> None:
    weights = objective.generator.state_dict()
    assert weights.keys() == averages["few-step"].keys()
    assert all(torch.equal(weights[name], value) for name, value in averages["few-step"].items())


def test_its_sampler_predicts_and_noises_anew(objective: FewStepObjective) -> None:
    diffusion = objective.parts(objective.generator).diffusion
    assert diffusion is not None
    assert (diffusion.defaults.solver, diffusion.defaults.steps, diffusion.t_max) == ("consistency", 2, 1.0)


# With a discriminator


@pytest.fixture
def adversarial(make_objective: MakeObjective) -> AdversarialFewStepObjective:
    objective = make_objective("few-step-adversarial")
    assert isinstance(objective, AdversarialFewStepObjective)
    return objective


def test_a_part_of_the_batch_starts_where_sampling_does(adversarial: AdversarialFewStepObjective) -> None:
    network = Exact(POINT)
    adversarial.x_start.network = network
    images = torch.full((64, 1, 28, 28), POINT)
    adversarial.begin_micro_batch(5)
    adversarial.train_step(images, torch.zeros(64, dtype=torch.int64), Position(0, 4))
    _, more = network.times
    assert 16 < (more == 1.0).sum() < 48


def test_its_loss_is_consistency_and_that_of_the_discriminator(adversarial: AdversarialFewStepObjective) -> None:
    """The images that are judged are those whose consistency is measured: one forward pass with gradients for both."""
    descended: dict[int, Tensor] = {}
    adversarial.descend = lambda optimizer, loss: descended.update({id(optimizer): loss.detach()})  # type: ignore[method-assign]
    adversarial.begin_micro_batch(5)
    losses = adversarial.train_step(*batch_of(16), Position(1, 4))  # a step without a penalty
    own = descended[id(adversarial.optimizers["unet"])]
    assert own > losses["consistency"]
    assert descended[id(adversarial.optimizers["discriminator"])] == losses["discriminator"]
