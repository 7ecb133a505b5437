"""Distribution matching (Yin et al. 2024, arXiv 2311.18828)."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.trainer.conftest import MODELS
from tests.trainer.objectives.conftest import MakeObjective, batch_of, seeded
from trainer.objectives.base import Position
from trainer.objectives.few_step import LEAST_ERROR, SCORES, FewStepObjective, matching_gradient

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
    networks = with_points(objective, unet=generated, teacher=wanted, score_first=generated)
    label = torch.zeros(8, dtype=torch.int64)
    for _ in range(200):
        networks["score_first"].point.data.copy_(networks["unet"].point.detach())
        images, _ = objective.generate(torch.zeros(8, 1, 28, 28), label)
        gradient = objective.gradient("score_first", images.detach(), label)
        (slope,) = torch.autograd.grad((images * gradient).mean(), networks["unet"].point)
        networks["unet"].point.data -= 0.01 * slope
    assert float(networks["unet"].point.detach()) == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("score", SCORES)
def test_a_matched_distribution_has_no_gradient(objective: FewStepObjective, score: str) -> None:
    """The images are not at the teacher's point, but their score says that they are as they should be."""
    with_points(objective, teacher=0.3, **{name: 0.3 if name == score else 0.9 for name in SCORES})
    gradient = objective.gradient(score, torch.full((8, 1, 28, 28), 0.9), torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-4)


def test_scores_are_compared_at_all_but_the_ends_of_the_schedule(objective: FewStepObjective) -> None:
    networks = with_points(objective, teacher=0.0, score_first=0.0)
    objective.gradient("score_first", torch.zeros(512, 1, 28, 28), torch.zeros(512, dtype=torch.int64))
    (times,) = networks["teacher"].times
    assert torch.equal(times, networks["score_first"].times[0])
    assert 0.02 < float(times.min()) < 0.05
    assert 0.95 < float(times.max()) < 0.985


# The step


def test_images_are_those_of_the_first_and_of_a_later_step(objective: FewStepObjective) -> None:
    """Later steps are at the times of samplers of two and of four steps, and start from the images of the first."""
    network = with_points(objective, unet=0.3)["unet"]
    first, later = objective.generate(torch.zeros(64, 1, 28, 28), torch.zeros(64, dtype=torch.int64))
    torch.testing.assert_close(first, torch.full_like(first, 0.3))
    torch.testing.assert_close(later, first)
    starts, laters = network.times
    assert torch.equal(starts, torch.ones(64))
    assert set(laters.tolist()) == {0.25, 0.5, 0.75}
    (to_first,) = torch.autograd.grad(later.sum(), network.point)
    assert float(to_first) == pytest.approx(later.numel(), rel=1e-4)  # through the later step alone


def test_each_score_is_learned_of_its_own_images(objective: FewStepObjective) -> None:
    """Of networks that predict no velocity, as U-Nets do at first: the mean square of noise - x."""
    images, label = batch_of(16)
    objective.begin_micro_batch(5)
    generated = objective.generate(images, label)
    objective.begin_micro_batch(5)
    loss = objective.train_step(images, label, START)["score_mse"]
    draws = seeded(5)
    objective.draws = draws
    objective.generate(images, label)
    wanted = []
    for image in generated:
        objective.denoising.draw_steps(16, draws)
        wanted.append(F.mse_loss(draws.randn_like(image), image.detach()))
    torch.testing.assert_close(loss, torch.stack(wanted).mean())


def test_the_scores_are_updated_several_times_for_each_update_of_the_generator(make_objective: MakeObjective) -> None:
    objective = make_objective("few-step", model=MODELS["few-step"] | {"score_updates": 3})
    updates = Counter[str]()
    for name, optimizer in objective.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: updates.update([name]))
    objective.train_step(*batch_of(4), START)
    assert updates == {"scores": 3, "unet": 1}


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
