"""Solvers on data whose best denoiser is known: a Gaussian, and a handful of points."""

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract.manifest import NoiseSchedule
from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.schedules import alpha_sigma
from service.sampling.solvers import EMPTY_PLAN, Plan, SolverName, make_inversion_plan, make_plan
from service.sampling.step import Denoise, Inputs

# 1280 timesteps: 10, 20, ... 320 steps divide it, so that strides are even and orders of convergence clean.
T = 1280
SCHEDULE = NoiseSchedule(kind="linear", timesteps=T)
ALPHA, SIGMA = alpha_sigma(SCHEDULE)
STEP_COUNTS = (10, 20, 40, 80, 160, 320)

MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 0.2]], dtype=torch.float64)
POINTS = torch.tensor([[1.0, 0.2], [-0.8, 0.9], [-0.3, -1.0], [0.9, -0.7]], dtype=torch.float64)
POINT_LABELS = torch.tensor([0, 0, 1, 1])
NO_CLASS = 2


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    index = (t * T).round().long() - 1
    return ALPHA[index], SIGMA[index]


def marginal_covariance(alpha: Tensor, sigma: Tensor) -> Tensor:
    return alpha.square() * COVARIANCE + sigma.square() * torch.eye(3, dtype=torch.float64)


def gain(alpha: Tensor, sigma: Tensor) -> Tensor:
    """K of the best denoiser of Gaussian data, E[x_start | x] = mean + K (x - alpha mean)."""
    return alpha * COVARIANCE @ torch.inverse(marginal_covariance(alpha, sigma))


def denoise_gaussian(x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
    alpha, sigma = levels(t[0])
    return MEAN + (x - alpha * MEAN) @ gain(alpha, sigma).T


def denoise_points(x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
    """E[x_start | x] over equally likely points, those of the row's class or all."""
    alpha, sigma = levels(t)
    squared_distance = (x.unsqueeze(1) - alpha.view(-1, 1, 1) * POINTS).square().sum(dim=2)
    log_weight = -squared_distance / (2 * sigma.unsqueeze(1) ** 2)
    other_class = (inputs["label"].unsqueeze(1) != POINT_LABELS) & (inputs["label"].unsqueeze(1) != NO_CLASS)
    return log_weight.masked_fill(other_class, -torch.inf).softmax(dim=1) @ POINTS


def run(denoise: Denoise, latent: Tensor, plan: Plan, label: Tensor | None = None) -> Tensor:
    noises = [RowNoise(seed) for seed in range(len(latent))]
    label = torch.zeros(len(latent), dtype=torch.int64) if label is None else label
    return sample(denoise, latent, noises, {"label": label}, plan, x0_range=None)


def start(rows: int) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


CLEAN = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)


def flow(x: Tensor, alpha: Tensor, sigma: Tensor, start: tuple[Tensor, Tensor] = (ALPHA[-1], SIGMA[-1])) -> Tensor:
    """The probability flow from level ``start`` to the level (alpha, sigma): deviations go as the marginals' root."""
    start_values, vectors = torch.linalg.eigh(marginal_covariance(*start))
    end_values = torch.linalg.eigvalsh(marginal_covariance(alpha, sigma))
    deviation = (x - start[0] * MEAN) @ vectors * (end_values / start_values).sqrt()
    return torch.addmm(alpha * MEAN, deviation, vectors.T)


def order(errors: list[float]) -> float:
    return -float(np.polyfit(np.log(STEP_COUNTS), np.log(errors), deg=1)[0])


@pytest.mark.parametrize(("solver", "expected"), [("ddim", 1.0), ("dpmpp_2m", 2.0)])
def test_deterministic_solvers_converge_to_the_flow_with_their_order(solver: SolverName, expected: float) -> None:
    """To the level of t = 1/2: the stride to the clean end is first order in every solver."""
    x = start(16)
    exact = flow(x, ALPHA[T // 2 - 1], SIGMA[T // 2 - 1])
    errors = []
    for steps in STEP_COUNTS:
        half = Plan(make_plan(SCHEDULE, 1.0, solver, steps).table[: steps // 2])
        errors.append(float((run(denoise_gaussian, x, half) - exact).abs().max()))
    assert order(errors) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_deterministic_solvers_converge_to_the_data(solver: SolverName) -> None:
    x = start(16)
    exact = flow(x, *CLEAN)
    plans = [make_plan(SCHEDULE, 1.0, solver, steps) for steps in STEP_COUNTS]
    errors = [float((run(denoise_gaussian, x, plan) - exact).abs().max()) for plan in plans]
    assert order(errors) > 0.9
    assert errors[-1] < 0.03


def gaussian_moments(plan: Plan) -> tuple[Tensor, Tensor]:
    """Mean and covariance after the plan, started from the exact marginal: each step is affine in x."""
    mean, covariance = ALPHA[-1] * MEAN, marginal_covariance(ALPHA[-1], SIGMA[-1])
    for t, a, b, _, d in plan.table:
        alpha, sigma = levels(t)
        matrix = a * torch.eye(3, dtype=torch.float64) + b * gain(alpha, sigma)
        mean = matrix @ mean + b * (MEAN - gain(alpha, sigma) @ (alpha * MEAN))
        covariance = matrix @ covariance @ matrix.T + d**2 * torch.eye(3, dtype=torch.float64)
    return mean, covariance


@pytest.mark.parametrize("steps", [5, 20, T])
def test_ancestral_mean_is_exact(steps: int) -> None:
    mean, _ = gaussian_moments(make_plan(SCHEDULE, 1.0, "ddpm", steps))
    torch.testing.assert_close(mean, MEAN)


@pytest.mark.parametrize("steps", [5, 20, T])
def test_ancestral_step_lacks_just_the_spread_of_the_data(steps: int) -> None:
    """Law of total variance: the posterior's variance leaves out b^2 Var(x_start | x), and only that."""
    plan = make_plan(SCHEDULE, 1.0, "ddpm", steps)
    alpha, sigma = levels(plan.table[1, 0])
    _, covariance = gaussian_moments(Plan(plan.table[:1]))
    spread = COVARIANCE - gain(ALPHA[-1], SIGMA[-1]) @ (ALPHA[-1] * COVARIANCE)
    expected = marginal_covariance(alpha, sigma) - plan.table[0, 2] ** 2 * spread
    torch.testing.assert_close(covariance, expected)


def test_ancestral_covariance_converges_to_that_of_the_data() -> None:
    plans = [make_plan(SCHEDULE, 1.0, "ddpm", steps) for steps in STEP_COUNTS]
    errors = [float((gaussian_moments(plan)[1] - COVARIANCE).norm()) for plan in plans]
    assert errors[-2] / errors[-1] == pytest.approx(2.0, abs=0.2)  # first order, twice the steps


@pytest.mark.parametrize(("solver", "eta"), [("ddpm", 0.0), ("ddim", 1.0), ("ddim", 0.5)])
def test_noisy_samples_have_the_moments_of_their_plan(solver: SolverName, eta: float) -> None:
    rows = 4000
    plan = make_plan(SCHEDULE, 1.0, solver, 10, eta)
    noises = [RowNoise(seed) for seed in range(rows)]
    unit = torch.stack([noise.draw((3,)) for noise in noises]).double()
    root = torch.linalg.cholesky(marginal_covariance(ALPHA[-1], SIGMA[-1]))
    latent = ALPHA[-1] * MEAN + unit @ root.T
    label = torch.zeros(rows, dtype=torch.int64)
    samples = sample(denoise_gaussian, latent, noises, {"label": label}, plan, x0_range=None)
    mean, covariance = gaussian_moments(plan)
    standard_error = float((covariance.diagonal().max() / rows).sqrt())
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=4 * standard_error)
    # The variance of a sample covariance's entry is at most twice the product of two variances.
    tolerance = 4 * float(covariance.diagonal().max()) * (2 / rows) ** 0.5
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=tolerance)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m"])
def test_samples_of_a_finite_data_set_are_its_points(solver: SolverName) -> None:
    latent = torch.randn(64, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    label = torch.arange(64) % 3
    samples = run(denoise_points, latent, make_plan(SCHEDULE, 1.0, solver, 80), label)
    distance, nearest = torch.cdist(samples, POINTS).min(dim=1)
    assert distance.max() < 1e-3
    assert (POINT_LABELS[nearest] == label)[label != NO_CLASS].all()
    assert set(nearest[label == NO_CLASS].tolist()) == set(range(len(POINTS)))


def test_no_steps_leave_the_start() -> None:
    x = start(2)
    assert torch.equal(run(denoise_gaussian, x, EMPTY_PLAN), x)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("strength", [0.25, 0.8])
def test_from_the_middle_it_is_the_flow_from_there(solver: SolverName, strength: float) -> None:
    x_start, noise = start(32).chunk(2)
    errors = []
    for steps in STEP_COUNTS:
        plan = make_plan(SCHEDULE, 1.0, solver, steps, strength=strength)
        x = plan.start(x_start, noise)
        level = round(T * strength) - 1
        exact = flow(x, *CLEAN, (ALPHA[level], SIGMA[level]))
        errors.append(float((run(denoise_gaussian, x, plan) - exact).abs().max()))
    assert order(errors) > 0.9
    assert errors[-1] < 0.03


def test_inversion_converges_to_the_flow_and_sampling_gives_the_data_back() -> None:
    x_start = MEAN + start(16) @ torch.linalg.cholesky(COVARIANCE).T
    exact = flow(x_start, ALPHA[-1], SIGMA[-1], CLEAN)
    errors, returns = [], []
    for steps in STEP_COUNTS:
        up = make_inversion_plan(SCHEDULE, 1.0, steps)
        noise = run(denoise_gaussian, up.start(x_start, torch.zeros_like(x_start)), up)
        errors.append(float((noise - exact).abs().max()))
        back = run(denoise_gaussian, noise, make_plan(SCHEDULE, 1.0, "ddim", steps))
        returns.append(float((back - x_start).abs().max()))
    assert order(errors) > 0.8
    assert order(returns) > 0.8
    assert max(errors[-1], returns[-1]) < 0.06
