"""Every solver on every schedule, on data whose best denoiser is known: a Gaussian, a mixture, a handful of points."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from service.contract.manifest import NoiseSchedule
from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.schedules import alpha_sigma
from service.sampling.solvers import Plan, SolverName, make_plan
from service.sampling.step import Denoise, Inputs

# 1280 timesteps: these steps divide it, so that strides are even and orders of convergence clean.
T = 1280
STEP_COUNTS = (80, 160, 320)
EYE = torch.eye(3, dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 0.2]], dtype=torch.float64)
POINTS = torch.tensor([[1.0, 0.2], [-0.8, 0.9], [-0.3, -1.0], [0.9, -0.7]], dtype=torch.float64)
POINT_LABELS = torch.tensor([0, 0, 1, 1])
NO_CLASS = 2

every_solver = pytest.mark.parametrize(
    ("solver", "eta"),
    [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("dpmpp_2m", 0.0), ("consistency", 0.0)],
)


def root(covariance: Tensor, power: float = 0.5) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    powered: Tensor = (vectors * values**power) @ vectors.T
    return powered


class Process:
    """The forward process of one schedule, and what is known about Gaussian data under it."""

    def __init__(self, kind: str) -> None:
        self.schedule = NoiseSchedule.model_validate({"kind": kind, "timesteps": T})
        self.alpha, self.sigma = alpha_sigma(self.schedule)

    def plan(self, solver: SolverName, steps: int, eta: float = 0.0) -> Plan:
        return make_plan(self.schedule, 1.0, solver, steps, eta)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        index = (t * T).round().long() - 1
        return self.alpha[index], self.sigma[index]

    def covariance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha.square() * COVARIANCE + sigma.square() * EYE

    def denoise(self, x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        """E[x_start | x] = mean + K (x - alpha mean)."""
        alpha, sigma = self.levels(t[0])
        gain = alpha * COVARIANCE @ torch.inverse(self.covariance(alpha, sigma))
        return MEAN + (x - alpha * MEAN) @ gain.T

    def flow(self, x: Tensor, t: Tensor, to: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The probability flow from t to other levels, the clean end's unless told: deviations go as the roots."""
        alpha, sigma = self.levels(t)
        end_alpha, end = (torch.ones(()).double(), COVARIANCE) if to is None else (to[0], self.covariance(*to))
        return end_alpha * MEAN + (x - alpha * MEAN) @ (root(self.covariance(alpha, sigma), -0.5) @ root(end)).T

    def moments(self, plan: Plan, denoise: Denoise) -> tuple[Tensor, Tensor]:
        """Mean and covariance after the plan, from the exact marginal, under a denoiser that is affine in x."""
        mean, covariance = self.alpha[-1] * MEAN, self.covariance(self.alpha[-1], self.sigma[-1])
        nothing = torch.zeros(1, 3, dtype=torch.float64)
        for t, a, b, c, d in plan.table:
            assert c == 0
            shift = denoise(nothing, t[None], {})[0]
            matrix = a * EYE + b * (denoise(EYE, t[None], {}) - shift).T
            mean, covariance = matrix @ mean + b * shift, matrix @ covariance @ matrix.T + d**2 * EYE
        return mean, covariance


@pytest.fixture(params=["linear", "cosine", "flow"], scope="module")
def process(request: pytest.FixtureRequest) -> Process:
    return Process(request.param)


def run(denoise: Denoise, latent: Tensor, plan: Plan, label: Tensor | None = None) -> Tensor:
    noises = [RowNoise(seed) for seed in range(len(latent))]
    label = torch.zeros(len(latent), dtype=torch.int64) if label is None else label
    return sample(denoise, latent, noises, {"label": label}, plan, x0_range=None)


def order(error: Callable[[int], float]) -> float:
    """The slope of the error against the steps, both as logarithms."""
    return -float(np.polyfit(np.log(STEP_COUNTS), np.log([error(steps) for steps in STEP_COUNTS]), deg=1)[0])


START = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ONE = torch.tensor(1.0, dtype=torch.float64)


# Deterministic solvers: the probability flow


@pytest.mark.parametrize(("solver", "expected"), [("ddim", 1.0), ("dpmpp_2m", 2.0)])
def test_they_converge_to_the_flow_with_their_order(process: Process, solver: SolverName, expected: float) -> None:
    """To the level of t = 1/2: the stride to the clean end is first order in every solver."""
    exact = process.flow(START, ONE, process.levels(ONE / 2))

    def error(steps: int) -> float:
        half = Plan(process.plan(solver, steps).table[: steps // 2])
        return float((run(process.denoise, START, half) - exact).abs().max())

    # Second order comes slowly where the start is pure noise: the first strides in lambda are long however many.
    assert order(error) == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_they_converge_to_the_data(process: Process, solver: SolverName) -> None:
    exact = process.flow(START, ONE)

    def error(steps: int) -> float:
        return float((run(process.denoise, START, process.plan(solver, steps)) - exact).abs().max())

    assert order(error) > 0.85
    assert error(320) < 0.03


# Solvers that add noise: the moments of the data


@pytest.mark.parametrize(("solver", "eta"), [("ddpm", 0.0), ("ddim", 1.0), ("ddim", 0.5)])
def test_the_mean_and_covariance_converge_to_the_datas(process: Process, solver: SolverName, eta: float) -> None:
    def error(steps: int) -> float:
        mean, covariance = process.moments(process.plan(solver, steps, eta), process.denoise)
        return float((mean - MEAN).norm() + (covariance - COVARIANCE).norm())

    assert order(error) > 0.85
    assert error(320) < 0.05


@pytest.mark.parametrize("steps", [1, 5, 20, T])
def test_the_mean_of_ancestral_sampling_is_exact(process: Process, steps: int) -> None:
    mean, _ = process.moments(process.plan("ddpm", steps), process.denoise)
    torch.testing.assert_close(mean, MEAN)


@pytest.mark.parametrize("steps", [1, 5, 20, T])
def test_ddim_with_eta_1_is_ancestral_sampling(process: Process, steps: int) -> None:
    ddpm, ddim = process.plan("ddpm", steps), process.plan("ddim", steps, eta=1.0)
    torch.testing.assert_close(ddim.table, ddpm.table, rtol=0, atol=1e-6)


# Consistency sampling: exact in any number of steps, if the network is the flow's end


@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_a_consistency_function_gives_the_datas_moments_in_any_number_of_steps(process: Process, steps: int) -> None:
    def consistency(x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        return process.flow(x, t[0])

    mean, covariance = process.moments(process.plan("consistency", steps), consistency)
    torch.testing.assert_close(mean, MEAN)
    torch.testing.assert_close(covariance, COVARIANCE)


def test_one_step_of_it_is_the_flow(process: Process) -> None:
    plan = process.plan("consistency", 1)
    result = run(lambda x, t, inputs: process.flow(x, t[0]), START, plan)
    torch.testing.assert_close(result, process.flow(START, ONE))
    assert not plan.adds_noise


# A handful of points, and a density


@every_solver
def test_samples_of_a_finite_data_set_are_its_points(process: Process, solver: SolverName, eta: float) -> None:
    def denoise(x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        """E[x_start | x] over equally likely points, those of the row's class or all."""
        alpha, sigma = process.levels(t)
        squared_distance = (x.unsqueeze(1) - alpha.view(-1, 1, 1) * POINTS).square().sum(dim=2)
        other_class = (inputs["label"].unsqueeze(1) != POINT_LABELS) & (inputs["label"].unsqueeze(1) != NO_CLASS)
        log_weight = -squared_distance / (2 * sigma.unsqueeze(1) ** 2)
        return log_weight.masked_fill(other_class, -torch.inf).softmax(dim=1) @ POINTS

    latent = torch.randn(64, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    label = torch.arange(64) % 3
    samples = run(denoise, latent, process.plan(solver, 80, eta), label)
    distance, nearest = torch.cdist(samples, POINTS).min(dim=1)
    assert distance.max() < 1e-3
    assert (POINT_LABELS[nearest] == label)[label != NO_CLASS].all()
    assert set(nearest[label == NO_CLASS].tolist()) == set(range(len(POINTS)))


DEVIATION = 0.4
MIXTURE = MixtureSameFamily(
    Categorical(torch.ones(4, dtype=torch.float64)),
    Independent(Normal(POINTS, torch.full_like(POINTS, DEVIATION)), 1),
)


def test_the_density_of_what_ddim_draws_is_the_datas() -> None:
    """The change of variables through every step of a flow, from the normal at t = 1, against a mixture's density."""
    process = Process("flow")

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.levels(t)
        variance = alpha.square() * DEVIATION**2 + sigma.square()
        share = (-(x - alpha * POINTS).square().sum(dim=1) / (2 * variance)).softmax(dim=0)
        return share @ POINTS + alpha * DEVIATION**2 / variance * (x - alpha * (share @ POINTS))

    def error(steps: int) -> float:
        worst = 0.0
        for x in START[:4, :2]:
            log_density = -0.5 * (x.square() + math.log(2 * math.pi)).sum()
            for t, a, b, _, _ in process.plan("ddim", steps).table:
                step = functools.partial(lambda t, a, b, x: a * x + b * denoise(x, t), t, a, b)
                jacobian = torch.autograd.functional.jacobian(step, x)  # type: ignore[no-untyped-call]
                log_density, x = log_density - torch.linalg.slogdet(jacobian)[1], step(x)
            exact = MIXTURE.log_prob(x)  # type: ignore[no-untyped-call]
            worst = max(worst, float((log_density - exact).abs()))
        return worst

    coarse, fine = error(20), error(80)
    assert fine < 0.06
    assert coarse / fine == pytest.approx(4.0, rel=0.35)  # first order, four times the steps
