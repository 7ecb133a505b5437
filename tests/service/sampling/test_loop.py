import pytest
import torch
from torch import Tensor

from service.contract.manifest import NoiseSchedule
from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.solvers import EMPTY_PLAN, SolverName, make_plan
from service.sampling.step import Inpaint, Inputs

SHAPE = (1, 4, 4)
SCHEDULE = NoiseSchedule(kind="linear", timesteps=100)


class Network(torch.nn.Module):
    """Counts the rows it is given; its parameter would record a graph if anybody let it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.rows: list[int] = []
        self.times: list[float] = []

    def forward(self, x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        self.rows.append(len(x))
        self.times.append(float(t[0]))
        return torch.tanh(self.scale * x + inputs["label"].view(-1, 1, 1, 1))


class CountingNoise(RowNoise):
    draws = 0

    def draw(self, shape: object) -> Tensor:
        self.draws += 1
        return super().draw(SHAPE)


def run(network: Network, seeds: list[int], solver: SolverName = "ddpm", scale: float = 1.0) -> Tensor:
    noises = [RowNoise(seed) for seed in seeds]
    latent = torch.stack([noise.draw(SHAPE) for noise in noises])
    plan = make_plan(SCHEDULE, 1.0, solver, 5)
    inputs, negative = {"label": torch.tensor(seeds)}, {"label": torch.full((len(seeds),), 9)}
    return sample(network, latent, noises, inputs, plan, negative=negative, guidance_scale=scale, x0_range=None)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_picture_does_not_depend_on_the_batch(scale: float) -> None:
    together = run(Network(), [0, 1, 2], scale=scale)
    for seed in range(3):
        torch.testing.assert_close(together[seed : seed + 1], run(Network(), [seed], scale=scale))
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 3), (0.0, 6), (2.0, 6)])
def test_guidance_costs_a_second_row_only_when_used(scale: float, rows: int) -> None:
    network = Network()
    run(network, [0, 1, 2], scale=scale)
    assert network.rows == [rows] * 5


def test_network_is_asked_at_the_times_of_the_plan() -> None:
    network = Network()
    run(network, [0])
    assert network.times == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(("solver", "draws"), [("ddpm", 4), ("ddim", 0), ("dpmpp_2m", 0), ("consistency", 4)])
def test_noise_is_drawn_once_a_row_for_each_step_that_adds_some(solver: SolverName, draws: int) -> None:
    noises = [CountingNoise(0), CountingNoise(1)]
    plan = make_plan(SCHEDULE, 1.0, solver, 5)
    inputs = {"label": torch.zeros(2, dtype=torch.int64)}
    sample(Network(), torch.zeros(2, *SHAPE), noises, inputs, plan, x0_range=None)
    assert [noise.draws for noise in noises] == [draws, draws]


def test_result_is_in_range_records_no_graph_and_leaves_the_start_alone() -> None:
    latent = 3 * torch.ones(1, *SHAPE)
    plan = make_plan(SCHEDULE, 1.0, "ddim", 5)
    inputs = {"label": torch.zeros(1, dtype=torch.int64)}
    result = sample(Network(), latent, [RowNoise(0)], inputs, plan, x0_range=(-0.25, 0.25))
    assert not result.requires_grad
    assert float(result.abs().max()) <= 0.25
    assert torch.equal(latent, 3 * torch.ones(1, *SHAPE))


def test_empty_plan_asks_no_network() -> None:
    network = Network()
    latent = torch.randn(2, *SHAPE)
    inputs = {"label": torch.zeros(2, dtype=torch.int64)}
    result = sample(network, latent, [RowNoise(0)] * 2, inputs, EMPTY_PLAN, x0_range=None)
    assert torch.equal(result, latent)
    assert network.rows == []


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m"])
def test_known_pixels_come_out_exact_and_the_others_heed_them(solver: SolverName) -> None:
    plan, inputs = make_plan(SCHEDULE, 1.0, solver, 5), {"label": torch.zeros(2, dtype=torch.int64)}
    known, mask = torch.rand(2, *SHAPE) - 0.5, (torch.rand(2, *SHAPE) > 0.5).float()

    def paint(inpaint: Inpaint | None) -> Tensor:
        noises = [RowNoise(0), RowNoise(1)]
        latent = torch.stack([noise.draw(SHAPE) for noise in noises])
        return sample(Neighbours(), latent, noises, inputs, plan, x0_range=(-1.0, 1.0), inpaint=inpaint)

    free, held = paint(None), paint(Inpaint(mask, known))
    assert torch.equal(held[mask == 0], known[mask == 0])
    assert not torch.allclose(held[mask == 1], free[mask == 1])
    assert torch.equal(paint(Inpaint(torch.ones_like(mask), known)), free)


class Neighbours(torch.nn.Module):
    """Predicts from the mean of the whole latent, so that what is known of one pixel is told to the others."""

    def forward(self, x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        return torch.tanh(0.3 * x + x.mean(dim=(1, 2, 3), keepdim=True))
