import itertools
import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.contract.manifest import NoiseSchedule
from service.sampling.schedules import alpha_sigma
from tests.trainer.conftest import DDPM, MODELS
from tests.trainer.objectives.conftest import MakeObjective, batch_of, seeded
from trainer.model_config import DdpmConfig
from trainer.models.parts import Prediction, target_weights
from trainer.objectives.base import Position
from trainer.objectives.ddpm import Denoising, min_snr_weight, q_sample

SCHEDULES = {kind: NoiseSchedule(kind=kind, timesteps=1000) for kind in ("linear", "cosine", "flow")}
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
EVERY = [(kind, prediction) for kind, prediction in itertools.product(SCHEDULES, PREDICTIONS)]


def denoising(kind: str, prediction: Prediction, density: str = "uniform", gamma: float | None = None) -> Denoising:
    fields = {
        "noise_schedule": SCHEDULES[kind].model_dump(),
        "prediction": prediction,
        "time_density": density,
        "min_snr_gamma": gamma,
    }
    return Denoising(DdpmConfig.model_validate(DDPM | fields), None, torch.device("cpu"))


# The forward process


def test_the_forward_process_has_the_closed_forms_mean_and_variance() -> None:
    alpha, sigma = (table.float() for table in alpha_sigma(SCHEDULES["linear"]))
    x_start = torch.tensor([-1.0, 0.5]).reshape(1, 1, 1, 2).expand(100_000, 1, 1, 2)
    noise = torch.randn(x_start.shape, generator=torch.Generator().manual_seed(0))
    for step in (0, 200, 999):
        scales = alpha[step].expand(len(noise)), sigma[step].expand(len(noise))
        x = q_sample(x_start, noise, *scales)
        torch.testing.assert_close(x.mean(dim=0), alpha[step] * x_start[0], rtol=0.0, atol=0.02)
        torch.testing.assert_close(x.var(dim=0), (sigma[step] ** 2).expand(1, 1, 2), rtol=0.02, atol=0.0)


def test_single_steps_compose_to_the_closed_form() -> None:
    """x_t = sqrt(1 - beta_t) x_(t-1) + sqrt(beta_t) noise, with the betas of Ho et al. 2020, section 4."""
    alpha, sigma = alpha_sigma(SCHEDULES["linear"])
    mean_scale, variance = 1.0, 0.0
    for step, beta in enumerate(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist()):
        mean_scale, variance = math.sqrt(1 - beta) * mean_scale, (1 - beta) * variance + beta
        assert float(alpha[step]) == pytest.approx(mean_scale, rel=1e-12)
        assert float(sigma[step] ** 2) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("normal", [None, (0.0, 1.0), (0.3, 1.8)], ids=str)
def test_steps_are_drawn_as_their_density_says(normal: tuple[float, float] | None) -> None:
    count, (mean, deviation) = 200_000, normal or (0.0, 1.0)
    config = denoising("flow", "velocity", "logit-normal" if normal else "uniform").config
    config = config.model_copy(update={"time_mean": mean, "time_deviation": deviation})
    t = (Denoising(config, (-1.0, 1.0), torch.device("cpu")).draw_steps(count, seeded()) + 1) / 1000
    assert 0.001 <= float(t.min()) <= float(t.max()) <= 1.0
    for logit in (-1.5, -0.5, 0.0, 1.0):
        bound = torch.tensor(logit).sigmoid()
        below = torch.special.ndtr((torch.tensor(logit) - mean) / deviation) if normal else bound
        assert float((t <= bound).float().mean()) == pytest.approx(float(below), abs=0.006)


# The loss


class Told(nn.Module):
    """A network that always returns its one tensor and records its inputs."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.x, self.t = x, t
        return self.answer


def drawn(of: Denoising, x_start: Tensor) -> tuple[Tensor, Tensor]:
    """The steps and the noise that `Denoising.loss` draws from the same numbers."""
    draws = seeded()
    return of.draw_steps(len(x_start), draws), draws.randn_like(x_start)


@pytest.mark.parametrize(("kind", "prediction"), EVERY)
def test_the_perfect_prediction_costs_nothing(kind: str, prediction: Prediction) -> None:
    of, (x_start, label) = denoising(kind, prediction, gamma=5.0), batch_of(16)
    step, noise = drawn(of, x_start)
    p, q = target_weights(of.alpha[step], of.sigma[step], prediction)
    network = Told(q_sample(x_start, noise, p, q))
    loss = of.loss(network, x_start, label, seeded())
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(network.t, (step + 1) / 1000)
    torch.testing.assert_close(network.x, q_sample(x_start, noise, of.alpha[step], of.sigma[step]))


def stated_weight(alpha: Tensor, sigma: Tensor, prediction: Prediction, gamma: float) -> Tensor:
    """Hang et al. 2023, section 3.4; the velocity's error is x_start's divided by sigma where the two sum to 1."""
    snr = (alpha / sigma).square()
    by_prediction = {
        "epsilon": torch.where(snr > gamma, gamma / snr, torch.ones_like(snr)),
        "v": snr.clamp(max=gamma) / (snr + 1),
        "velocity": snr.clamp(max=gamma) * sigma.square() / (alpha + sigma).square(),
        "x_start": snr.clamp(max=gamma),
    }
    scale = (alpha.square() + sigma.square()) if prediction == "v" else torch.ones_like(snr)
    return by_prediction[prediction] / scale


@pytest.mark.parametrize(("kind", "prediction"), EVERY)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_the_papers(kind: str, prediction: Prediction, gamma: float) -> None:
    alpha, sigma = alpha_sigma(SCHEDULES[kind])
    weight = min_snr_weight(alpha, sigma, prediction, gamma)
    assert weight.isfinite().all()
    torch.testing.assert_close(weight, stated_weight(alpha, sigma, prediction, gamma))


def test_the_picture_is_learned_as_its_velocity_would_be() -> None:
    """In a flow the velocity is (x - x_start) / t, so squared errors of x_start count 1 / t² times, 400 at most."""
    x_start, picture = denoising("flow", "x_start"), batch_of(16)[0]
    error = 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    step, _ = drawn(x_start, picture)
    t = ((step + 1) / 1000)[:, None, None, None]
    velocity_loss = ((error / t) * (t / t.clamp(min=0.05))).square().mean()
    loss = x_start.loss(Told(picture + error), picture, torch.zeros(16), seeded())
    torch.testing.assert_close(loss.detach(), velocity_loss)


@pytest.mark.parametrize(("kind", "prediction"), EVERY)
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_gradient_carries_the_stated_weight(kind: str, prediction: Prediction, gamma: float | None) -> None:
    of, (x_start, label) = denoising(kind, prediction, gamma=gamma), batch_of(16)
    network = Told(torch.randn(x_start.shape, generator=torch.Generator().manual_seed(1)))
    of.loss(network, x_start, label, seeded()).backward()  # type: ignore[no-untyped-call]
    step, noise = drawn(of, x_start)
    alpha, sigma = (table[step] for table in alpha_sigma(SCHEDULES[kind]))
    target = q_sample(x_start, noise, *(scale.float() for scale in target_weights(alpha, sigma, prediction)))
    weight = torch.ones(16) if prediction != "x_start" else sigma.float().clamp(min=0.05).pow(-2)
    if gamma is not None:
        weight = stated_weight(alpha, sigma, prediction, gamma).float()
    wanted = weight[:, None, None, None] * 2 * (network.answer.detach() - target) / x_start.numel()
    assert network.answer.grad is not None
    torch.testing.assert_close(network.answer.grad, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["ddpm", "ddpm-epsilon"])
def test_the_reported_loss_is_the_mean_squared_error(make_objective: MakeObjective, name: str) -> None:
    """Of a network that predicts zero, as a U-Net does at first."""
    objective, (images, label) = make_objective(name), batch_of(16)
    objective.begin_micro_batch(5)
    losses = objective.train_step(images, label, Position(0, 8))
    draws = seeded(5)
    if name == "ddpm":
        draws.randn(16)
    else:
        draws.randint(1000, 16)
    noise = draws.randn_like(images)
    target = noise - images if name == "ddpm" else noise
    (loss,) = losses.values()
    assert losses.keys() == {f"{MODELS[name]['prediction']}_mse"}
    torch.testing.assert_close(loss, F.mse_loss(torch.zeros_like(images), target))


# The schedule for the sampler


@pytest.mark.parametrize(("kind", "prediction"), EVERY)
def test_plans_start_where_the_prediction_still_tells_the_picture(kind: str, prediction: Prediction) -> None:
    """At pure noise epsilon does not determine x_start; v and velocity do."""
    t_max = denoising(kind, prediction).diffusion.t_max
    if prediction != "epsilon" or kind == "linear":
        assert t_max == 1.0
    else:
        assert 0.99 < t_max < 1.0
