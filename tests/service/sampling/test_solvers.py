"""Every table against the reference implementation, and what every table must have."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.contract.manifest import NoiseSchedule
from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.schedules import alpha_sigma, alphas_cumprod, trailing_timesteps
from service.sampling.solvers import EMPTY_PLAN, SolverName, make_inversion_plan, make_plan
from service.sampling.step import Inputs

LINEAR = NoiseSchedule(kind="linear", timesteps=1000)
COSINE = NoiseSchedule(kind="cosine", timesteps=1000)
FLOW = NoiseSchedule(kind="flow", timesteps=1000)
DIFFUSERS_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
# DPMSolverMultistepScheduler hands tensors to numpy the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

SHAPE = (2, 6, 6)
SEEDS = (3, 2**32 - 1)

schedules = pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda schedule: schedule.kind)
step_counts = pytest.mark.parametrize("steps", [5, 10, 20, 50, 1000])
solvers = pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m", "consistency"])


class TinyNet(torch.nn.Module):
    """A fixed random network of (x, t) whose predictions leave [-1, 1], so that the clamp matters."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(2, 2, 3, 3, generator=generator) / 4)

    def forward(self, x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        features = torch.nn.functional.conv2d(x, self.weight, padding=1)
        return 1.3 * torch.sin(features + 3 * t.view(-1, 1, 1, 1))


class FromEpsilon(TinyNet):
    """The same network, taken to predict the noise, answering with the clean latent as an artefact does."""

    def forward(self, x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        index = (t * 1000).round().long() - 1
        alpha, sigma = (scale[index].to(x.dtype).view(-1, 1, 1, 1) for scale in alpha_sigma(LINEAR))
        return (x - sigma * super().forward(x, t, inputs)) / alpha


def ours(
    schedule: NoiseSchedule,
    net: TinyNet,
    solver: SolverName,
    steps: int,
    eta: float = 0.0,
    t_max: float = 1.0,
) -> Tensor:
    noises = [RowNoise(seed) for seed in SEEDS]
    latent = torch.stack([noise.draw(SHAPE) for noise in noises]).to(net.weight)
    label = torch.zeros(len(SEEDS), dtype=torch.int64)
    plan = make_plan(schedule, t_max, solver, steps, eta)
    return sample(net, latent, noises, {"label": label}, plan, x0_range=(-1.0, 1.0))


@torch.no_grad()
def theirs(scheduler: SchedulerMixin, net: TinyNet, clamp: bool = False, **options: object) -> Tensor:
    """Run a diffusers scheduler, made by `reference`, with the noise that our rows draw."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    x = torch.stack([torch.randn(SHAPE, generator=generator) for generator in generators]).to(net.weight)
    if not isinstance(scheduler, DPMSolverMultistepScheduler):
        options["generator"] = generators
    for timestep in scheduler.timesteps:
        t = ((timestep + 1) / 1000).expand(len(SEEDS))
        output = net(x, t, torch.zeros(0))
        output = output.clamp(-1, 1) if clamp else output
        x = scheduler.step(output, timestep, x, **options).prev_sample
    return x


def reference(
    scheduler_class: type[SchedulerMixin],
    schedule: NoiseSchedule,
    steps: int,
    t_max: float = 1.0,
    **config: object,
) -> SchedulerMixin:
    """A diffusers scheduler with the timesteps of our plan."""
    options = {"timestep_spacing": "trailing", "prediction_type": "sample"} | config
    scheduler = scheduler_class(beta_schedule=DIFFUSERS_NAMES[schedule.kind], **options)
    # Its products of 1,000 float32 factors are off by 1e-4 at both ends: ddim with eta 1 and 5 steps takes
    # the root of a negative number. The same betas multiplied in float64 leave only the solver to compare.
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), dim=0)
    if t_max == 1.0:
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(timesteps=trailing_timesteps(round(1000 * t_max) - 1, steps))
    return scheduler


def assert_same_pictures(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@schedules
@step_counts
def test_ddpm_is_that_of_diffusers(schedule: NoiseSchedule, steps: int) -> None:
    scheduler = reference(DDPMScheduler, schedule, steps, variance_type="fixed_small")
    actual = ours(schedule, TinyNet(), solver="ddpm", steps=steps)
    assert_same_pictures(actual, theirs(scheduler, TinyNet()))


@schedules
@step_counts
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_diffusers(schedule: NoiseSchedule, steps: int, eta: float) -> None:
    scheduler = reference(DDIMScheduler, schedule, steps)
    actual = ours(schedule, TinyNet(), solver="ddim", steps=steps, eta=eta)
    assert_same_pictures(actual, theirs(scheduler, TinyNet(), eta=eta, use_clipped_model_output=True))


@schedules
@step_counts
def test_dpmpp_2m_is_that_of_diffusers(schedule: NoiseSchedule, steps: int) -> None:
    scheduler = reference(DPMSolverMultistepScheduler, schedule, steps, final_sigmas_type="zero")
    actual = ours(schedule, TinyNet(), solver="dpmpp_2m", steps=steps)
    assert_same_pictures(actual, theirs(scheduler, TinyNet(), clamp=True))


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 5, 10, 20, 50, 200])
def test_ddim_on_a_flow_is_diffusers_euler_method(steps: int) -> None:
    net, clamped = TinyNet(), (-1.0, 1.0)
    plan = make_plan(FLOW, 1.0, "ddim", steps)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    scheduler.set_timesteps(sigmas=plan.table[:, 0].tolist())
    x = torch.stack([torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        velocity = (x - net(x, sigma.expand(len(SEEDS)), torch.zeros(0)).clamp(*clamped)) / sigma
        x = scheduler.step(velocity, timestep, x).prev_sample
    assert_same_pictures(ours(FLOW, net, solver="ddim", steps=steps), x)


@given(t_max=st.floats(0.01, 1.0), data=st.data())
def test_ddim_on_a_flow_is_eulers_method(t_max: float, data: st.DataObject) -> None:
    """x + (sigma_next - sigma) velocity, with the velocity (x - x_start) / sigma."""
    plan = make_plan(FLOW, t_max, "ddim", data.draw(st.integers(1, round(t_max * 1000))))
    sigma = torch.cat([plan.table[:, 0], torch.zeros(1, dtype=torch.float64)])
    stride = sigma.diff() / sigma[:-1]
    nothing = torch.zeros_like(stride)
    torch.testing.assert_close(plan.table[:, 1:], torch.stack([1 + stride, -stride, nothing, nothing], dim=1))


@step_counts
def test_noise_predicting_network_samples_as_in_diffusers(steps: int) -> None:
    """In float64: dividing by the first alpha, 0.006, would show float32's rounding, not a difference."""
    scheduler = reference(DDIMScheduler, LINEAR, steps, prediction_type="epsilon")
    actual = ours(LINEAR, FromEpsilon().double(), solver="ddim", steps=steps)
    assert_same_pictures(actual, theirs(scheduler, TinyNet().double(), use_clipped_model_output=True))


@schedules
@pytest.mark.parametrize("steps", [7, 30])
def test_plan_from_t_max_is_that_of_diffusers(schedule: NoiseSchedule, steps: int) -> None:
    ddpm = reference(DDPMScheduler, schedule, steps, t_max=0.9, variance_type="fixed_small")
    actual = ours(schedule, TinyNet(), t_max=0.9, solver="ddpm", steps=steps)
    assert_same_pictures(actual, theirs(ddpm, TinyNet()))
    dpmpp = reference(DPMSolverMultistepScheduler, schedule, steps, t_max=0.9, final_sigmas_type="zero")
    actual = ours(schedule, TinyNet(), t_max=0.9, solver="dpmpp_2m", steps=steps)
    assert_same_pictures(actual, theirs(dpmpp, TinyNet(), clamp=True))


@schedules
def test_ddpm_at_full_length_is_the_papers_posterior(schedule: NoiseSchedule) -> None:
    """Ho et al. 2020, equations 6 and 7, from the betas; ddim with eta 1 is the same process."""
    cumulative = alphas_cumprod(schedule).flip(0)
    previous = torch.cat([cumulative[1:], torch.ones(1, dtype=torch.float64)])
    beta = 1 - cumulative / previous
    x_coefficient = (1 - beta).sqrt() * (1 - previous) / (1 - cumulative)
    x_start_coefficient = previous.sqrt() * beta / (1 - cumulative)
    deviation = ((1 - previous) / (1 - cumulative) * beta).sqrt()
    t = torch.arange(1000, 0, -1, dtype=torch.float64) / 1000
    expected = torch.stack([t, x_coefficient, x_start_coefficient, torch.zeros(1000), deviation], dim=1)
    for plan in (make_plan(schedule, 1.0, "ddpm", 1000), make_plan(schedule, 1.0, "ddim", 1000, eta=1.0)):
        torch.testing.assert_close(plan.table, expected, rtol=0, atol=1e-6)


def test_ancestral_noise_survives_a_schedule_that_ends_in_pure_noise() -> None:
    """Where alpha-bar is far below 1e-16 rounding must not take the root of a negative number."""
    schedule = NoiseSchedule(kind="linear", timesteps=1000, beta_end=0.5)
    ddim = make_plan(schedule, 1.0, "ddim", 20, eta=1.0).table
    torch.testing.assert_close(ddim, make_plan(schedule, 1.0, "ddpm", 20).table, rtol=0, atol=1e-6)


@given(
    kind=st.sampled_from(["linear", "cosine", "flow"]),
    solver_and_eta=st.sampled_from([("ddpm", 0), ("ddim", 0), ("ddim", 1), ("dpmpp_2m", 0), ("consistency", 0)]),
    t_max=st.floats(0.01, 1.0),
    data=st.data(),
)
def test_every_plan_ends_in_its_last_prediction(
    kind: str, solver_and_eta: tuple[SolverName, float], t_max: float, data: st.DataObject
) -> None:
    solver, eta = solver_and_eta
    schedule = NoiseSchedule.model_validate({"kind": kind, "timesteps": 200})
    most = round(t_max * 200)
    steps = data.draw(st.integers(1, most))
    plan = make_plan(schedule, t_max, solver, steps, eta)
    assert plan.table.dtype == torch.float64
    assert plan.table.shape == (steps, 5)
    assert len(plan) == steps
    assert plan.table.isfinite().all()
    assert plan.table[0, 0] == most / 200
    assert (plan.table[:, 0].diff() < 0).all()
    torch.testing.assert_close(plan.table[-1, 1:].float(), torch.tensor([0.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, FLOW], ids=lambda schedule: schedule.kind)
@solvers
def test_clean_signal_and_its_noise_keep_their_scales(schedule: NoiseSchedule, solver: SolverName) -> None:
    """With the true x_start, x = alpha x_start + sigma noise goes to the next level's alpha and variance."""
    timesteps = torch.tensor(trailing_timesteps(999, 20))
    alpha, sigma = (scale[timesteps] for scale in alpha_sigma(schedule))
    _, a, b, c, d = make_plan(schedule, 1.0, solver, 20).table[:-1].T
    torch.testing.assert_close(a * alpha[:-1] + b + c, alpha[1:])
    torch.testing.assert_close((a * sigma[:-1]) ** 2 + d**2, sigma[1:] ** 2)


@pytest.mark.parametrize(
    ("solver", "eta", "stochastic"),
    [
        ("ddpm", 0.0, True),
        ("ddim", 0.0, False),
        ("ddim", 0.1, True),
        ("dpmpp_2m", 0.0, False),
        ("consistency", 0.0, True),
    ],
)
def test_plan_tells_whether_it_adds_noise(solver: SolverName, eta: float, stochastic: bool) -> None:
    assert bool(make_plan(COSINE, 1.0, solver, 5, eta).table[:, 4].any()) is stochastic


@given(schedule=st.sampled_from([LINEAR, COSINE, FLOW]), steps=st.integers(1, 900))
def test_consistency_noises_every_prediction_anew(schedule: NoiseSchedule, steps: int) -> None:
    """Song et al. 2023, algorithm 1: of x nothing is kept, and nothing is added to the last prediction."""
    table = make_plan(schedule, 0.9, "consistency", steps).table
    alpha, sigma = (scale[trailing_timesteps(899, steps)[1:]] for scale in alpha_sigma(schedule))
    _, a, b, c, d = table.T
    assert not a.any()
    assert not c.any()
    torch.testing.assert_close(b, torch.cat([alpha, torch.ones(1, dtype=torch.float64)]))
    torch.testing.assert_close(d, torch.cat([sigma, torch.zeros(1, dtype=torch.float64)]))


def test_empty_plan_has_no_steps() -> None:
    assert len(EMPTY_PLAN) == 0
    assert not EMPTY_PLAN.table[:, 4].any()


@pytest.mark.parametrize(
    ("solver", "steps", "eta", "message"),
    [
        ("euler", 10, 0.0, "solver 'euler' is unknown; allowed: ddpm, ddim, dpmpp_2m, consistency"),
        ("ddim", 0, 0.0, "steps 0 is out of range; this model allows 1 to 900"),
        ("ddim", 901, 0.0, "steps 901 is out of range; this model allows 1 to 900"),
        ("ddim", 10, -0.1, "eta -0.1 is out of range"),
        ("ddim", 10, 1.1, "eta 1.1 is out of range"),
        ("ddim", 10, float("nan"), "eta nan is out of range"),
        ("ddpm", 10, 0.5, "eta 0.5 is out of range; ddim allows 0 to 1, the other solvers only 0"),
        ("consistency", 2, 0.5, "eta 0.5 is out of range; ddim allows 0 to 1, the other solvers only 0"),
    ],
)
def test_what_no_plan_can_have_is_refused(solver: SolverName, steps: int, eta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(LINEAR, 0.9, solver, steps, eta)


@schedules
@solvers
@pytest.mark.parametrize("steps", [1, 20, 37])
def test_whole_strength_is_the_whole_plan(schedule: NoiseSchedule, solver: SolverName, steps: int) -> None:
    whole, same = make_plan(schedule, 0.9, solver, steps), make_plan(schedule, 0.9, solver, steps, strength=1.0)
    assert torch.equal(whole.table, same.table)
    alpha, sigma = (float(scale[899]) for scale in alpha_sigma(schedule))
    assert (same.alpha, same.sigma) == (alpha, sigma)


@schedules
@pytest.mark.parametrize(("steps", "strength"), [(50, 0.6), (10, 0.1), (20, 0.75), (1000, 0.333)])
def test_a_plan_of_less_strength_takes_the_timesteps_of_diffusers(
    schedule: NoiseSchedule, steps: int, strength: float
) -> None:
    """StableDiffusionImg2ImgPipeline.get_timesteps leaves out the first steps - int(steps * strength)."""
    scheduler = reference(DDIMScheduler, schedule, steps)
    timesteps = scheduler.timesteps[steps - int(steps * strength) :]
    whole, part = make_plan(schedule, 1.0, "ddim", steps), make_plan(schedule, 1.0, "ddim", steps, strength=strength)
    torch.testing.assert_close(part.table[:, 0], (timesteps + 1).double() / 1000)
    torch.testing.assert_close(part.table, whole.table[-len(part) :])
    alpha, sigma = (scale[timesteps[0]] for scale in alpha_sigma(schedule))
    x_start, noise = torch.randn(2, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(part.start(x_start, noise), alpha * x_start + sigma * noise)


@given(steps=st.integers(1, 900), strength=st.floats(0, 1, exclude_min=True), solver=st.sampled_from(["ddpm", "ddim"]))
def test_a_plan_starts_at_its_strength_and_has_its_share_of_steps(
    steps: int, strength: float, solver: SolverName
) -> None:
    plan = make_plan(LINEAR, 0.9, solver, steps, strength=strength)
    assert len(plan) == max(1, round(steps * strength))
    assert float(plan.table[0, 0]) == pytest.approx(max(0.001, 0.9 * strength), abs=0.0005001)
    assert plan.alpha**2 + plan.sigma**2 == pytest.approx(1)
    assert (plan.table[:, 0].diff() < 0).all()


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="is out of range; it must be above 0 and at most 1"):
        make_plan(LINEAR, 0.9, "ddim", 10, strength=strength)


@schedules
@pytest.mark.parametrize("steps", [1, 7, 900])
def test_an_inversion_goes_up_the_timesteps_of_its_plan(schedule: NoiseSchedule, steps: int) -> None:
    up, down = make_inversion_plan(schedule, 0.9, steps), make_plan(schedule, 0.9, "ddim", steps)
    assert len(up) == steps
    assert not up.adds_noise
    assert up.table.isfinite().all()
    torch.testing.assert_close(up.table[1:, 0], down.table[1:, 0].flip(0))
    assert float(up.table[0, 0]) == 0.001
    assert up.sigma == 0
    # Its second and later steps undo those of the plan, if the prediction is the same.
    x, x_start = torch.randn(2, *SHAPE, dtype=torch.float64)
    for (_, a, b, _, _), (_, a_down, b_down, _, _) in zip(up.table[1:], down.table[:-1].flip(0), strict=True):
        torch.testing.assert_close(a_down * (a * x + b * x_start) + b_down * x_start, x)


@pytest.mark.parametrize("steps", [0, 901])
def test_an_inversion_has_no_more_steps_than_timesteps(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps {steps} is out of range; this model allows 1 to 900"):
        make_inversion_plan(LINEAR, 0.9, steps)
