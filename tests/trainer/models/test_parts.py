"""The parameterisations: what a network predicts, and the clean latent that follows from it."""

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from service.contract.manifest import NoiseSchedule
from service.sampling.schedules import alpha_sigma
from trainer.models.parts import LEAST_ALPHA, Prediction, XStart, largest_t, target_weights, x_start_weights

SCHEDULES = {kind: NoiseSchedule(kind=kind, timesteps=1000) for kind in ("linear", "cosine", "flow")}
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
EVERY = list(itertools.product(SCHEDULES, PREDICTIONS))
SCALES = st.floats(0.01, 3.0)


def scalar(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@given(alpha=SCALES, sigma=SCALES, seed=st.integers(0, 1000))
def test_parameterisations_are_mutual_inverses(alpha: float, sigma: float, seed: int) -> None:
    """From any of them to x_start and the noise, and on to any other; whatever alpha and sigma sum to."""
    x_start, noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scales = scalar(alpha), scalar(sigma)
    x = alpha * x_start + sigma * noise
    outputs = {name: (target_weights(*scales, name), name) for name in PREDICTIONS}
    for (p, q), name in outputs.values():
        of_x, of_output = x_start_weights(*scales, name)
        predicted = of_x * x + of_output * (p * x_start + q * noise)
        torch.testing.assert_close(predicted, x_start, rtol=0, atol=1e-9)
        for (other_p, other_q), _ in outputs.values():
            converted = other_p * predicted + other_q * (x - alpha * predicted) / sigma
            torch.testing.assert_close(converted, other_p * x_start + other_q * noise, rtol=0, atol=1e-6)


def test_targets_are_the_papers() -> None:
    """Ho et al. 2020; Salimans & Ho 2022, appendix D; Lipman et al. 2023: of x_start, of the noise."""
    alpha, sigma = scalar(0.6), scalar(0.8)
    weights = {name: tuple(float(weight) for weight in target_weights(alpha, sigma, name)) for name in PREDICTIONS}
    assert weights == {"epsilon": (0.0, 1.0), "v": (-0.8, 0.6), "velocity": (-1.0, 1.0), "x_start": (1.0, 0.0)}


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    """d/dt of (1 - t) x_start + t noise; and v that of the angle's path, cos x_start + sin noise."""
    angle = scalar(0.4).requires_grad_()
    t = scalar(0.4).requires_grad_()
    for (alpha, sigma), by, name in (((1 - t, t), t, "velocity"), ((angle.cos(), angle.sin()), angle, "v")):
        (of_x_start,) = torch.autograd.grad(alpha, by, retain_graph=True)
        (of_noise,) = torch.autograd.grad(sigma, by, retain_graph=True)
        wanted = target_weights(alpha.detach(), sigma.detach(), name)  # type: ignore[arg-type]
        torch.testing.assert_close((of_x_start, of_noise), wanted)


class FixedOutput(nn.Module):
    """A perfect network: it returns the given target."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.output


@pytest.mark.parametrize(("kind", "prediction"), EVERY)
def test_the_true_prediction_gives_the_clean_picture_back_at_every_step(kind: str, prediction: Prediction) -> None:
    alpha, sigma = (table.float() for table in alpha_sigma(SCHEDULES[kind]))
    step = torch.arange(round(largest_t(alpha, sigma, prediction) * 1000))
    generator = torch.Generator().manual_seed(0)
    x_start = torch.rand(len(step), 1, 2, 2, generator=generator) * 2 - 1
    noise = torch.randn(x_start.shape, generator=generator)

    def mixed(of_x_start: Tensor, of_noise: Tensor) -> Tensor:
        return of_x_start[step].view(-1, 1, 1, 1) * x_start + of_noise[step].view(-1, 1, 1, 1) * noise

    network = FixedOutput(mixed(*target_weights(alpha, sigma, prediction)))
    denoise = XStart(network, alpha, sigma, prediction)
    predicted = denoise(mixed(alpha, sigma), (step + 1) / 1000, torch.zeros_like(step))
    # float32 holds x to 1e-7, and dividing by alpha, as epsilon does, makes up to 200 times that of it.
    torch.testing.assert_close(predicted, x_start, rtol=0.0, atol=2e-4 if prediction == "epsilon" else 2e-6)


def test_the_last_usable_step_is_where_epsilon_still_tells() -> None:
    for kind in ("cosine", "flow"):
        alpha, sigma = alpha_sigma(SCHEDULES[kind])
        last = round(largest_t(alpha, sigma, "epsilon") * 1000) - 1
        assert alpha[last] >= LEAST_ALPHA * (1 - 1e-9)
        assert alpha[last + 1] < LEAST_ALPHA
