import math
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from service.contract.manifest import NoiseSchedule
from service.sampling.schedules import alpha_sigma
from tests.trainer.conftest import FAMILIES, MODELS, OPTIMIZER, MakeConfig
from trainer.draws import Draws
from trainer.models.parts import LEAST_ALPHA, EpsilonDenoise, largest_t
from trainer.objectives import Objective, build
from trainer.objectives.ddpm import q_sample
from trainer.objectives.gan import discriminator_loss, generator_loss
from trainer.objectives.vae import VaeObjective, gaussian_nll, kl_to_standard_normal, reparametrise

LINEAR = NoiseSchedule(kind="linear", timesteps=1000)
COSINE = NoiseSchedule(kind="cosine", timesteps=1000)
CPU = torch.device("cpu")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Every family


def batch_of(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 28, 28, generator=generator) * 2 - 1, torch.arange(count) % 11


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_moves_every_network_and_reports_finite_float32_losses(
    make_config: MakeConfig, family: str, precision: str
) -> None:
    config = make_config(family, precision=precision, optimizer=OPTIMIZER | {"weight_decay": 0.0})
    objective = build(config, (1, 28, 28), 10, CPU)
    before = {name: value.clone() for name, value in objective.networks.named_parameters()}
    for _ in range(3):  # what lies behind layers that start at zero moves when those have moved
        losses = objective.train_step(*batch_of(11), progress=0.9)
    assert all(loss.dtype == torch.float32 and loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    assert not any(loss.requires_grad for loss in losses.values())
    still = [name for name, value in objective.networks.named_parameters() if torch.equal(value, before[name])]
    assert still == []


def test_the_seed_decides_the_start(make_config: MakeConfig, family: str) -> None:
    def weights(seed: int) -> Tensor:
        objective = build(make_config(family, seed=seed), (1, 28, 28), 10, CPU)
        return torch.cat([weight.flatten() for weight in objective.networks.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_steps_are_clipped(make_config: MakeConfig) -> None:
    objective = build(make_config("vae"), (1, 28, 28), 10, CPU)
    optimizer = objective.optimizers["vae"]
    weights = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
    objective.descend(optimizer, torch.stack([weight.square().sum() for weight in weights]).sum() * 1e6)
    norm = torch.stack([weight.grad.square().sum() for weight in weights]).sum().sqrt()
    assert norm == pytest.approx(1.0, rel=1e-4)


# VAE


def test_kl_is_that_of_torch_distributions() -> None:
    mean, logvar = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)).unbind()
    wanted = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl_to_standard_normal(mean, logvar), wanted)


def test_reparametrised_draws_have_the_moments_and_pass_gradients() -> None:
    noise = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([-2.0, 0.5]).requires_grad_()
    logvar = torch.tensor([0.0, math.log(9.0)]).requires_grad_()
    draws = reparametrise(mean.expand(100_000, 2), logvar.expand(100_000, 2), noise)
    error = 5 * logvar.exp().sqrt() / math.sqrt(len(draws))  # five standard errors of the mean
    assert ((draws.mean(dim=0) - mean).abs() < error).all()
    torch.testing.assert_close(draws.var(dim=0), logvar.exp(), rtol=0.03, atol=0.0)
    gradients = torch.autograd.grad(draws.mean(dim=0).sum(), [mean, logvar])
    torch.testing.assert_close(gradients[0], torch.ones(2))
    torch.testing.assert_close(gradients[1], 0.5 * (draws.mean(dim=0) - mean))


def test_the_likelihood_is_the_gaussian_one_at_its_best_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    image, reconstruction = torch.randn(2, 7, 1, 4, 4, generator=generator).unbind()
    mse = float((image - reconstruction).square().mean())

    def negative_log_likelihood(variance: float) -> Tensor:
        """Per image of 16 pixels, less its constant at the optimum, which `gaussian_nll` leaves out."""
        per_pixel = F.gaussian_nll_loss(reconstruction, image, torch.full_like(image, variance))
        return 16 * (per_pixel - 0.5)

    torch.testing.assert_close(gaussian_nll(image, reconstruction), negative_log_likelihood(mse))
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert negative_log_likelihood(factor * mse) > negative_log_likelihood(mse)


@pytest.mark.parametrize(
    ("warmup", "progress", "weight"),
    [(0.5, 0.0, 0.0), (0.5, 0.25, 1.0), (0.5, 0.5, 2.0), (0.5, 0.9, 2.0), (0.0, 0.0, 2.0)],
)
def test_the_kl_weight_rises_to_beta(make_config: MakeConfig, warmup: float, progress: float, weight: float) -> None:
    model = MODELS["vae"] | {"beta": 2.0, "kl_warmup": warmup}
    objective = build(make_config("vae", model=model), (1, 28, 28), 10, CPU)
    assert isinstance(objective, VaeObjective)
    assert objective.kl_weight(progress) == pytest.approx(weight)


# GAN


def probability_losses(real: Tensor, fake: Tensor, target: float) -> Tensor:
    """The discriminator's loss as the papers write it, in probabilities."""
    on_real, on_fake = real.sigmoid(), fake.sigmoid()
    smoothed = target * on_real.log() + (1 - target) * (1 - on_real).log()
    return -smoothed.mean() - (1 - on_fake).log().mean()


@pytest.mark.parametrize("target", [1.0, 0.9])
def test_the_discriminators_loss_is_the_papers(target: float) -> None:
    real, fake = torch.linspace(-4, 4, 9), torch.linspace(-3, 5, 9)
    torch.testing.assert_close(discriminator_loss(real, fake, target), probability_losses(real, fake, target))


def test_only_the_real_side_is_smoothed() -> None:
    logit = torch.tensor([math.log(0.9 / 0.1)], requires_grad=True)
    (on_real,) = torch.autograd.grad(discriminator_loss(logit, torch.zeros(1), 0.9), logit)
    assert float(on_real) == pytest.approx(0.0, abs=1e-6)  # sure enough at probability 0.9
    fakes = torch.tensor([-8.0, -4.0, 0.0, 4.0], requires_grad=True)
    (on_fake,) = torch.autograd.grad(discriminator_loss(torch.zeros(1), fakes, 0.9), fakes)
    assert (on_fake > 0).all()  # never sure enough


def test_the_generators_gradient_survives_a_sure_discriminator() -> None:
    rejected = torch.tensor([-20.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(generator_loss(rejected), rejected)
    (saturating,) = torch.autograd.grad((1 - rejected.sigmoid()).log().mean(), rejected)
    assert float(gradient) == pytest.approx(-1.0, abs=1e-6)
    assert abs(float(saturating)) < 1e-6
    torch.testing.assert_close(generator_loss(torch.tensor([0.3])), -torch.tensor(0.3).sigmoid().log())


# DDPM


def test_the_forward_process_has_the_closed_forms_mean_and_variance() -> None:
    alpha, sigma = (table.float() for table in alpha_sigma(LINEAR))
    x_start = torch.tensor([-1.0, 0.5]).reshape(1, 1, 1, 2).expand(100_000, 1, 1, 2)
    noise = torch.randn(x_start.shape, generator=torch.Generator().manual_seed(0))
    for step in (0, 200, 999):
        scales = alpha[step].expand(len(noise)), sigma[step].expand(len(noise))
        x = q_sample(x_start, noise, *scales)
        torch.testing.assert_close(x.mean(dim=0), alpha[step] * x_start[0], rtol=0.0, atol=0.02)
        torch.testing.assert_close(x.var(dim=0), (sigma[step] ** 2).expand(1, 1, 2), rtol=0.02, atol=0.0)


def test_single_steps_compose_to_the_closed_form() -> None:
    """x_t = sqrt(1 - beta_t) x_(t-1) + sqrt(beta_t) noise, with the betas of Ho et al. 2020, section 4."""
    alpha, sigma = alpha_sigma(LINEAR)
    mean_scale, variance = 1.0, 0.0
    for step, beta in enumerate(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist()):
        mean_scale, variance = math.sqrt(1 - beta) * mean_scale, (1 - beta) * variance + beta
        assert float(alpha[step]) == pytest.approx(mean_scale, rel=1e-12)
        assert float(sigma[step] ** 2) == pytest.approx(variance, rel=1e-9)


class KnownNoise(nn.Module):
    """The perfect network: it was told the noise."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.noise


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda schedule: schedule.kind)
def test_the_true_noise_gives_the_clean_image_back_at_every_step(schedule: NoiseSchedule) -> None:
    alpha, sigma = (table.float() for table in alpha_sigma(schedule))
    step = torch.arange(round(largest_t(alpha) * len(alpha)))
    generator = torch.Generator().manual_seed(0)
    x_start = torch.rand(len(step), 1, 2, 2, generator=generator) * 2 - 1
    noise = torch.randn(x_start.shape, generator=generator)
    x = q_sample(x_start, noise, alpha[step], sigma[step])
    predicted = EpsilonDenoise(KnownNoise(noise), alpha, sigma)(x, (step + 1) / len(alpha), torch.zeros_like(step))
    # float32 holds x to 1e-7, and dividing by alpha makes up to 200 times that of it.
    torch.testing.assert_close(predicted, x_start, rtol=0.0, atol=2e-4)


def test_plans_start_where_epsilon_still_tells_the_image() -> None:
    assert largest_t(alpha_sigma(LINEAR)[0]) == 1.0
    alpha = alpha_sigma(COSINE)[0]
    t_max = largest_t(alpha)
    assert 0.99 < t_max < 1.0
    last = round(t_max * len(alpha)) - 1
    assert alpha[last] >= LEAST_ALPHA > alpha[last + 1]


def test_the_loss_is_the_mean_squared_error_of_the_noise(make_config: MakeConfig) -> None:
    objective: Objective = build(make_config("ddpm"), (1, 28, 28), 10, CPU)  # its network predicts zero at first
    images, label = batch_of(16)
    objective.begin(5)
    loss = objective.train_step(images, label, progress=0.0)["epsilon_mse"]
    draws = Draws(CPU)
    draws.restart(5)
    draws.randint(1000, 16)
    torch.testing.assert_close(loss, F.mse_loss(torch.zeros_like(images), draws.randn_like(images)))
