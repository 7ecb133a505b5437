"""Distribution matching (Yin et al. 2024, arXiv 2311.18828)."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.trainer.objectives.conftest import MakeObjective, batch_of, seeded
from trainer.objectives.base import Position
from trainer.objectives.ddpm import q_sample
from trainer.objectives.few_step import LEAST_ERROR, FewStepObjective, matching_gradient

START = Position(0, 4)


@pytest.fixture
def objective(make_objective: MakeObjective) -> FewStepObjective:
    objective = make_objective("few-step")
    assert isinstance(objective, FewStepObjective)
    return objective


class Point(nn.Module):
    """The velocity whose x_start is ``point`` everywhere: the diffusion of data that is that one point."""

    def __init__(self, point: float) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor(point))
        self.times: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.times.append(t)
        return (x - self.point) / t[:, None, None, None]


def with_points(objective: FewStepObjective, **points: float) -> dict[str, Point]:
    """``objective`` with networks of these names that predict these points."""
    networks = {name: Point(point) for name, point in points.items()}
    objective.networks.update(networks)
    return networks


# The gradient


def test_a_gradient_leads_from_the_generated_score_to_the_real_one() -> None:
    images, real, fake = (torch.full((2, 1, 4, 4), value) for value in (0.5, 0.25, 0.75))
    assert torch.equal(matching_gradient(images, real, fake), torch.full_like(images, (0.75 - 0.25) / 0.25))
    assert torch.equal(matching_gradient(images, real, real), torch.zeros_like(images))


def test_rows_are_normalised_each_by_its_own_error() -> None:
    images, real, fake = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    real[0] = 0.5
    gradient = matching_gradient(images, real, fake)
    assert torch.equal(gradient[0], torch.ones(1, 4, 4))
    torch.testing.assert_close(gradient[1], torch.full((1, 4, 4), 1 / LEAST_ERROR))


@pytest.mark.parametrize(("generated", "wanted"), [(0.5, 0.2), (-0.4, 0.2)])
def test_images_move_to_the_teachers_distribution(objective: FewStepObjective, generated: float, wanted: float) -> None:
    """Of a generator of one point, whose score is known: gradient descent ends at the point of the teacher."""
    networks = with_points(objective, unet=generated, teacher=wanted, score=generated)
    for _ in range(200):
        networks["score"].point.data.copy_(networks["unet"].point.detach())
        images = objective._generate(torch.zeros(8, 1, 28, 28), torch.zeros(8, dtype=torch.int64))
        gradient = objective._gradient(images.detach(), torch.zeros(8, dtype=torch.int64))
        (slope,) = torch.autograd.grad((images * gradient).mean(), networks["unet"].point)
        networks["unet"].point.data -= 0.01 * slope
    assert float(networks["unet"].point.detach()) == pytest.approx(wanted, abs=0.02)


def test_a_matched_distribution_has_no_gradient(objective: FewStepObjective) -> None:
    """The generator is not at the teacher's point, but its score says that its images are as they should be."""
    with_points(objective, unet=0.9, teacher=0.3, score=0.3)
    gradient = objective._gradient(torch.full((8, 1, 28, 28), 0.9), torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-4)


def test_scores_are_compared_at_all_but_the_ends_of_the_schedule(objective: FewStepObjective) -> None:
    networks = with_points(objective, teacher=0.0, score=0.0)
    objective._gradient(torch.zeros(512, 1, 28, 28), torch.zeros(512, dtype=torch.int64))
    (times,) = networks["teacher"].times
    assert torch.equal(times, networks["score"].times[0])
    assert 0.02 < float(times.min()) < 0.05
    assert 0.95 < float(times.max()) < 0.985


# The step


def test_a_part_of_the_batch_starts_where_sampling_does(objective: FewStepObjective) -> None:
    network = with_points(objective, unet=0.3)["unet"]
    objective._generate(torch.zeros(256, 1, 28, 28), torch.zeros(256, dtype=torch.int64))
    (times,) = network.times
    assert 96 < int((times == 1.0).sum()) < 160


def test_the_score_is_learned_of_the_generated_images(objective: FewStepObjective) -> None:
    """Of networks that predict no velocity, as U-Nets do at first: the mean square of noise - x."""
    images, label = batch_of(16)
    objective.begin_micro_batch(5)
    loss = objective.train_step(images, label, START)["score_mse"]
    draws, alpha, sigma = seeded(5), objective.denoising.alpha, objective.denoising.sigma
    drawn = objective.denoising.draw_steps(16, draws)
    step = torch.where(draws.rand(16) < 0.5, 999, drawn)
    generated = q_sample(images, draws.randn_like(images), alpha[step], sigma[step]).clamp(-1.0, 1.0)
    objective.denoising.draw_steps(16, draws)
    torch.testing.assert_close(loss, F.mse_loss(draws.randn_like(images), generated))


def test_all_networks_start_as_the_base_and_the_teacher_stays(
    objective: FewStepObjective, averages: dict[str, dict[str, Tensor]]
) -> None:
    for network in objective.networks.values():
        weights = network.state_dict()
        assert weights.keys() == averages["few-step"].keys()
        assert all(torch.equal(weights[name], value) for name, value in averages["few-step"].items())
    objective.train_step(*batch_of(8), START)
    teacher = objective.networks["teacher"].state_dict()
    assert all(torch.equal(teacher[name], value) for name, value in averages["few-step"].items())


def test_its_sampler_predicts_and_noises_anew(objective: FewStepObjective) -> None:
    diffusion = objective.parts(objective.generator).diffusion
    assert diffusion is not None
    assert (diffusion.defaults.solver, diffusion.defaults.steps, diffusion.t_max) == ("consistency", 2, 1.0)
