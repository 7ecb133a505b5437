import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.trainer.conftest import MODELS
from tests.trainer.objectives.conftest import MakeObjective, batch_of
from trainer.models import dcgan, gan
from trainer.objectives.adversary import (
    discriminator_loss,
    generator_loss,
    gradient_norm,
    wasserstein_penalty,
    zero_centred_penalty,
)
from trainer.objectives.base import Position

LOSSES = ("relativistic", "hinge", "bce", "wasserstein")
REAL, FAKE = torch.linspace(-4, 4, 9), torch.linspace(-3, 5, 9).flip(0)


# Losses of logits


def probability_losses(real: Tensor, fake: Tensor, target: float) -> Tensor:
    """The discriminator's cross-entropy as the papers write it, in probabilities."""
    on_real, on_fake = real.sigmoid(), fake.sigmoid()
    smoothed = target * on_real.log() + (1 - target) * (1 - on_real).log()
    return -smoothed.mean() - (1 - on_fake).log().mean()


@pytest.mark.parametrize("target", [1.0, 0.9])
def test_cross_entropy_is_the_papers(target: float) -> None:
    loss = discriminator_loss("bce", REAL, FAKE, target)
    torch.testing.assert_close(loss, probability_losses(REAL, FAKE, target))


def test_only_the_real_side_is_smoothed() -> None:
    logit = torch.tensor([math.log(0.9 / 0.1)], requires_grad=True)
    (on_real,) = torch.autograd.grad(discriminator_loss("bce", logit, torch.zeros(1), 0.9), logit)
    assert float(on_real) == pytest.approx(0.0, abs=1e-6)  # sure enough at probability 0.9
    fakes = torch.tensor([-8.0, -4.0, 0.0, 4.0], requires_grad=True)
    (on_fake,) = torch.autograd.grad(discriminator_loss("bce", torch.zeros(1), fakes, 0.9), fakes)
    assert (on_fake > 0).all()  # never sure enough


def test_the_generators_gradient_survives_a_sure_discriminator() -> None:
    rejected = torch.tensor([-20.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(generator_loss("bce", torch.zeros(1), rejected), rejected)
    (saturating,) = torch.autograd.grad((1 - rejected.sigmoid()).log().mean(), rejected)
    assert float(gradient) == pytest.approx(-1.0, abs=1e-6)
    assert abs(float(saturating)) < 1e-6
    torch.testing.assert_close(generator_loss("bce", REAL, FAKE), -FAKE.sigmoid().log().mean())


def test_hinge_asks_for_a_margin_and_no_more() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, -0.25, 1.0])
    assert float(discriminator_loss("hinge", real, fake)) == pytest.approx((0 + 0.5 + 2 + 0 + 0.75 + 2) / 3)


@pytest.mark.parametrize("loss", ["hinge", "wasserstein"])
def test_the_generator_of_hinge_and_wasserstein_raises_its_logits(loss: str) -> None:
    assert float(generator_loss(loss, REAL, FAKE)) == pytest.approx(-float(FAKE.mean()))


def test_the_critic_estimates_a_distance() -> None:
    assert float(discriminator_loss("wasserstein", REAL, FAKE)) == pytest.approx(float(FAKE.mean() - REAL.mean()))


def test_the_relativistic_losses_are_the_papers() -> None:
    """Each picture against its partner: minus the log of the probability that the right one of them is real."""
    torch.testing.assert_close(discriminator_loss("relativistic", REAL, FAKE), -F.logsigmoid(REAL - FAKE).mean())
    torch.testing.assert_close(generator_loss("relativistic", REAL, FAKE), -F.logsigmoid(FAKE - REAL).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_shift_of_the_discriminator_changes_no_relativistic_loss(loss: str) -> None:
    """And no Wasserstein distance; hinge and cross-entropy do know where zero is."""
    shifted = discriminator_loss(loss, REAL + 3.0, FAKE + 3.0)
    indifferent = bool(torch.isclose(shifted, discriminator_loss(loss, REAL, FAKE), rtol=1e-5))
    assert indifferent == (loss in ("relativistic", "wasserstein"))
    if loss == "relativistic":
        torch.testing.assert_close(generator_loss(loss, REAL + 3.0, FAKE + 3.0), generator_loss(loss, REAL, FAKE))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_better_discriminator_has_less_to_lose_and_its_generator_more(loss: str) -> None:
    real, fake = torch.tensor([0.5, -0.5]), torch.tensor([0.5, -0.5])
    assert discriminator_loss(loss, real + 0.1, fake - 0.1) < discriminator_loss(loss, real, fake)
    assert generator_loss(loss, real + 0.1, fake - 0.1) > generator_loss(loss, real, fake)


# Gradient penalties


class Linear(nn.Module):
    """D(x) = w x, whose gradient is w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        return image.flatten(1) @ self.weight


class Quadratic(nn.Module):
    """D(x) = s |x|^2 / 2, whose gradient is s x."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        return 0.5 * self.scale * image.flatten(1).square().sum(dim=1)


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor, Tensor]:
    real, fake = torch.randn(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return real, fake, torch.zeros(5, dtype=torch.int64)


def test_penalties_of_a_linear_discriminator_have_closed_forms(pictures: tuple[Tensor, Tensor, Tensor]) -> None:
    discriminator = Linear()
    squared = discriminator.weight.detach().square().sum()
    real, fake, label = pictures
    torch.testing.assert_close(gradient_norm(discriminator, real, label), squared.expand(5))
    penalty = zero_centred_penalty(discriminator, *pictures)  # R1 and R2 are |w|^2 / 2 each
    torch.testing.assert_close(penalty, squared)
    (gradient,) = torch.autograd.grad(penalty, discriminator.weight)
    torch.testing.assert_close(gradient, 2 * discriminator.weight.detach())
    penalty = wasserstein_penalty(discriminator.float(), real.float(), fake.float(), label, torch.rand(5))
    torch.testing.assert_close(penalty, (squared.sqrt() - 1).square().float())


def test_both_sides_are_penalised_and_half_of_each(pictures: tuple[Tensor, Tensor, Tensor]) -> None:
    real, fake, label = pictures
    r1, r2 = (0.5 * 9.0 * side.flatten(1).square().sum(dim=1).mean() for side in (real, fake))
    torch.testing.assert_close(zero_centred_penalty(Quadratic(), real, fake, label), r1 + r2)


def test_the_wasserstein_penalty_is_measured_between_the_pairs(pictures: tuple[Tensor, Tensor, Tensor]) -> None:
    """On D = |x|^2 / 2 the norm is that of the point itself, so of points between equal pictures it is theirs."""
    real, label = pictures[0].float(), pictures[2]
    discriminator = Quadratic().float().requires_grad_(False)
    norm = 3.0 * real.flatten(1).norm(dim=1)
    penalty = wasserstein_penalty(discriminator, real, real, label, torch.rand(5))
    torch.testing.assert_close(penalty, (norm - 1).square().mean())
    share = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])  # of the way to a picture of zeros, where the norm is none
    penalty = wasserstein_penalty(discriminator, real, torch.zeros_like(real), label, share)
    torch.testing.assert_close(penalty, (norm * (1 - share) - 1).square().mean(), rtol=1e-4, atol=1e-5)


def steps_of(make_objective: MakeObjective, model: dict[str, Any], steps: int) -> list[Tensor]:
    """The discriminator's gradient in each of the steps on one and the same batch, its weights left alone."""
    objective = make_objective("gan", model=MODELS["gan"] | model)
    gradients: list[Tensor] = []

    def record(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        if optimizer is objective.optimizers["discriminator"]:
            weights = list(objective.networks["discriminator"].parameters())
            got = torch.autograd.grad(loss, weights, allow_unused=True)
            flat = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, got, strict=True)]
            gradients.append(torch.cat([gradient.flatten() for gradient in flat]))

    objective.descend = record  # type: ignore[method-assign]
    for step in range(steps):
        objective.begin_micro_batch(7)
        objective.train_step(*batch_of(8), Position(step, steps))
    return gradients


def test_lazy_penalties_keep_the_expected_gradient(make_objective: MakeObjective) -> None:
    """Karras et al. 2020, appendix B: a fourth of the penalties, each four times as heavy."""
    lazy = steps_of(make_objective, {"penalty_every": 4, "gamma": 1.0}, 8)
    (every,) = steps_of(make_objective, {"penalty_every": 1, "gamma": 1.0}, 1)
    (without,) = steps_of(make_objective, {"gamma": 0.0}, 1)
    assert not torch.allclose(every, without, rtol=1e-3)
    torch.testing.assert_close(torch.stack(lazy).mean(dim=0), every, rtol=1e-4, atol=1e-6)
    for step in (1, 2, 3, 5, 6, 7):
        torch.testing.assert_close(lazy[step], without)


# Steps


def test_the_generator_moves_once_in_so_many_critic_steps(make_objective: MakeObjective) -> None:
    objective = make_objective("wgan-gp")
    reported = [objective.train_step(*batch_of(4), Position(step, 6)).keys() for step in range(6)]
    assert reported == [{"discriminator"}, {"discriminator"}, {"discriminator", "generator"}] * 2


def test_a_generator_step_leaves_the_discriminator_trainable_and_untouched(make_objective: MakeObjective) -> None:
    objective = make_objective("gan")
    generator = objective.optimizers["generator"]
    before: list[Tensor] = []
    descend = objective.descend

    def watched(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        weights = list(objective.networks["discriminator"].parameters())
        if optimizer is generator:
            before.extend(weight.detach().clone() for weight in weights)
        descend(optimizer, loss)

    objective.descend = watched  # type: ignore[method-assign]
    objective.train_step(*batch_of(8), Position(1, 8))
    weights = list(objective.networks["discriminator"].parameters())
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    assert all(weight.requires_grad for weight in weights)


def test_spectral_norm_bounds_every_layer_also_those_that_start_at_zero(make_objective: MakeObjective) -> None:
    discriminator = make_objective("hinge").networks["discriminator"]
    for _ in range(30):
        discriminator(*batch_of(4))  # a step of the power iteration each
    layers = [layer for layer in discriminator.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 8
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert float(largest) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("network", ["residual", "dcgan"])
def test_the_discriminator_learns_what_belongs_to_which_class(network: str) -> None:
    """Real pictures are dark in class 0 and bright in class 1, the fakes the other way round: only labels tell."""
    discriminator: nn.Module = (
        gan.Discriminator((1, 8, 8), 2, 4, 1) if network == "residual" else dcgan.Discriminator((1, 8, 8), 2, 4)
    )
    label = torch.arange(16) % 2
    images = (2.0 * label - 1)[:, None, None, None] + 0.3 * torch.randn(16, 1, 8, 8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=5e-3)
    for _ in range(60):
        loss = discriminator_loss("bce", discriminator(images, label), discriminator(images, 1 - label))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (discriminator(images, label) > 1).all()
    assert (discriminator(images, 1 - label) < -1).all()


# Modes


class Point(nn.Module):
    """A perceptron on points of the plane, without a class."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers = nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, outputs)
        self.layers = nn.Sequential(*layers)

    def forward(self, point: Tensor, label: Tensor) -> Tensor:
        output: Tensor = self.layers(point)
        return output.squeeze(1)


@pytest.mark.slow
def test_the_default_loss_covers_a_ring_of_eight_gaussians() -> None:
    """The classic picture of mode collapse (Metz et al. 2017, figure 2); every mode gets its share."""
    angle = torch.arange(8) * (math.pi / 4)
    modes = torch.stack([angle.cos(), angle.sin()], dim=1)
    generator, discriminator = Point(2), Point(1)
    networks = (generator, discriminator)
    optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.0, 0.99)) for network in networks]
    label = torch.zeros(128, dtype=torch.int64)
    for _ in range(1500):
        real = modes[torch.randint(8, (128,))] + 0.05 * torch.randn(128, 2)
        fake = generator(torch.randn(128, 2), label)
        loss = discriminator_loss("relativistic", discriminator(real, label), discriminator(fake.detach(), label))
        loss = loss + 0.05 * zero_centred_penalty(discriminator, real, fake.detach(), label)
        optimizers[1].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers[1].step()
        loss = generator_loss("relativistic", discriminator(real, label), discriminator(fake, label))
        optimizers[0].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers[0].step()
    with torch.no_grad():
        distance, nearest = torch.cdist(generator(torch.randn(4000, 2), label), modes).min(dim=1)
    on_a_mode = distance < 0.25
    assert float(on_a_mode.float().mean()) > 0.6
    assert int(nearest[on_a_mode].bincount(minlength=8).min()) > 4000 / 8 / 4
