"""Every table against the scheduler of diffusers that it stands for, step by step on the same network."""

from collections.abc import Mapping
from itertools import product

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from service.sampling.diffusers_levels import alphas_cumprod
from service.sampling.diffusers_plan import make_diffusers_plan
from service.sampling.diffusers_schedule import SOLVERS, DiffusionSchedule, DiffusionSolver
from service.sampling.solvers import Plan
from service.sampling.step import Inpaint
from tests.service.sampling.diffusers_reference import (
    CLASSES,
    STABLE,
    difference,
    draw,
    ours,
    schedule_of,
    scheduler_of,
    theirs,
)

# The schedulers hand tensors to numpy the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

#: Relative to the largest latent on the way. diffusers computes its coefficients, and Euler's latents, in float32.
TOLERANCE = 1e-5
SEED = 3
SPACINGS = ("leading", "linspace", "trailing")
X_START = draw(torch.Generator().manual_seed(9))
MASK = (draw(torch.Generator().manual_seed(10)) > 0).double()

solvers = pytest.mark.parametrize("solver", SOLVERS)
spacings = pytest.mark.parametrize("spacing", SPACINGS)
predictions = pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])

#: The fields of scheduler_config.json that only some solvers read.
OPTIONS: dict[DiffusionSolver, list[dict[str, object]]] = {
    "ddim": [{"set_alpha_to_one": one, "clip_sample": clip} for one, clip in product((False, True), repeat=2)],
    "ddpm": [
        {"clip_sample": False, "variance_type": "fixed_large"},
        {"clip_sample": True, "clip_sample_range": 0.8, "variance_type": "fixed_small_log"},
        {"clip_sample": True},
    ],
    "dpmpp_2m": [
        {"use_karras_sigmas": karras, "final_sigmas_type": final, "euler_at_final": euler}
        for karras, final, euler in product((False, True), ("zero", "sigma_min"), (False, True))
    ],
    "euler": [
        {"use_karras_sigmas": karras, "final_sigmas_type": final}
        for karras, final in product((False, True), ("zero", "sigma_min"))
    ],
    "euler_ancestral": [{}],
    "lcm": [{"clip_sample": False}, {"clip_sample": True}],
}


def has_karras(solver: DiffusionSolver) -> bool:
    return "use_karras_sigmas" in OPTIONS[solver][0]


def assert_same(
    solver: DiffusionSolver,
    steps: int,
    config: Mapping[str, object],
    *,
    eta: float = 0.0,
    strength: float | None = None,
) -> None:
    """Text to image, or image to image where a strength is given."""
    scheduler = scheduler_of(solver, **{**STABLE, **config})
    schedule = schedule_of(scheduler)
    x_start = None if strength is None else X_START
    share = 1.0 if strength is None else strength
    expected = theirs(scheduler, steps, SEED, eta=eta, strength=share, x_start=x_start)
    plan = make_diffusers_plan(schedule, steps, eta, share)
    actual = ours(plan, schedule.prediction_type, SEED, x_start=x_start)
    assert difference(actual, expected) < TOLERANCE, (solver, steps, config)


@solvers
@spacings
@predictions
def test_every_field_of_the_configuration(solver: DiffusionSolver, spacing: str, prediction: str) -> None:
    if (solver, prediction) == ("euler_ancestral", "sample"):
        prediction = "epsilon"  # diffusers does not implement the other
    offsets = (0, 1) if spacing == "leading" else (1,)  # the others do not read it
    for options, offset, steps in product(OPTIONS[solver], offsets, (1, 2, 14, 15)):
        config = options | {"timestep_spacing": spacing, "steps_offset": offset, "prediction_type": prediction}
        assert_same(solver, steps, config)


@solvers
@spacings
def test_every_number_of_steps(solver: DiffusionSolver, spacing: str) -> None:
    for steps in range(1, 51):
        assert_same(solver, steps, {"timestep_spacing": spacing, "steps_offset": 1})


@spacings
@pytest.mark.parametrize("eta", [0.3, 0.9])
def test_ddim_with_noise(spacing: str, eta: float) -> None:
    for clip, one, steps in product((False, True), (False, True), (1, 5, 20, 50)):
        config = {"timestep_spacing": spacing, "clip_sample": clip, "set_alpha_to_one": one}
        assert_same("ddim", steps, config, eta=eta)


@solvers
@spacings
def test_a_last_timestep_without_signal(solver: DiffusionSolver, spacing: str) -> None:
    for steps in (1, 4, 20):
        config = {"timestep_spacing": spacing, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
        assert_same(solver, steps, config)
    config = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "sample"}
    plan = make_diffusers_plan(schedule_of(scheduler_of("ddim", **config)), 10)
    assert plan.alpha == 0.0


@solvers
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2", "trained"])
def test_every_schedule_of_betas(solver: DiffusionSolver, betas: str) -> None:
    trained = torch.linspace(0.001, 0.03, 300).tolist()
    config = {"num_train_timesteps": 300, "trained_betas": trained} if betas == "trained" else {"beta_schedule": betas}
    # Leading timesteps leave out the last ones of the cosine, where a float32 root of Euler's ancestral steps is NaN.
    for steps, karras in product((3, 20), (False, True)):
        options: dict[str, object] = {"use_karras_sigmas": karras} if has_karras(solver) else {}
        options |= {"timestep_spacing": "leading", "prediction_type": "v_prediction"}
        assert_same(solver, steps, {**config, **options})


def test_a_bound_of_lambda_and_karras_sigmas_leave_out_timesteps() -> None:
    cosine = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    for spacing, karras in product(SPACINGS, (False, True)):
        assert_same("dpmpp_2m", 20, {"timestep_spacing": spacing, "use_karras_sigmas": karras, **cosine})
    for sigmas in ({"sigma_min": 0.05}, {"sigma_max": 8.0}, {"sigma_min": 0.05, "sigma_max": 8.0}):
        assert_same("euler", 10, {"use_karras_sigmas": True, **sigmas})


@solvers
@spacings
def test_image_to_image_takes_the_last_part_of_the_plan(solver: DiffusionSolver, spacing: str) -> None:
    for strength, steps in product((0.3, 0.58, 0.99, 1.0), (4, 20)):
        assert_same(solver, steps, {"timestep_spacing": spacing, "steps_offset": 1}, strength=strength)


def test_the_order_of_the_last_step_depends_on_the_steps_of_the_full_plan() -> None:
    for strength, steps in ((0.3, 20), (0.8, 18), (0.9, 14)):
        assert_same("dpmpp_2m", steps, {"final_sigmas_type": "sigma_min"}, strength=strength)


def test_a_strength_of_the_latent_consistency_pipeline_keeps_the_steps() -> None:
    scheduler = scheduler_of("lcm")
    plan = make_diffusers_plan(schedule_of(scheduler), 4, strength=0.5, keep_steps=True)
    scheduler.set_timesteps(4, strength=0.5)
    assert plan.table[:, 0].tolist() == scheduler.timesteps.tolist()
    last_of_the_full_plan = make_diffusers_plan(schedule_of(scheduler), 4, strength=0.5)
    assert len(last_of_the_full_plan) == 2


@solvers
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpainting_keeps_the_known_part_at_the_level_of_the_next_step(
    solver: DiffusionSolver, strength: float
) -> None:
    for options, steps in product(OPTIONS[solver], (2, 10)):
        scheduler = scheduler_of(solver, **STABLE, **options)
        plan = make_diffusers_plan(schedule_of(scheduler), steps, strength=strength)
        expected = theirs(scheduler, steps, SEED, strength=strength, x_start=X_START, mask=MASK)
        inpaint = Inpaint(MASK, X_START)
        start = None if strength == 1 else X_START
        actual = ours(plan, "epsilon", SEED, x_start=start, inpaint=inpaint)
        assert difference(actual, expected) < TOLERANCE
        torch.testing.assert_close((1 - MASK) * actual[-1], (1 - MASK) * X_START)


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmpp_2m", "euler", "euler_ancestral", "lcm"])
@pytest.mark.parametrize("own", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
def test_another_solver_is_that_of_from_config(own: str, solver: DiffusionSolver) -> None:
    # As the files of old folders: what is not written is the default of the class that steps.
    config = {"_class_name": own, **STABLE, "steps_offset": 1, "prediction_type": "v_prediction"}
    scheduler = type(scheduler_of(solver)).from_config(config)
    schedule = DiffusionSchedule.from_config(config, solver)
    actual = ours(make_diffusers_plan(schedule, 7), "v_prediction", SEED)
    assert difference(actual, theirs(scheduler, 7, SEED)) < TOLERANCE


def test_the_network_is_given_the_timesteps_of_diffusers() -> None:
    for solver, karras, spacing in product(SOLVERS, (False, True), SPACINGS):
        options = {"use_karras_sigmas": karras} if has_karras(solver) else {}
        scheduler = scheduler_of(solver, **STABLE, timestep_spacing=spacing, **options)
        scheduler.set_timesteps(13)
        plan = make_diffusers_plan(schedule_of(scheduler), 13)
        torch.testing.assert_close(plan.table[:, 0], scheduler.timesteps.double(), rtol=1e-6, atol=0)


def test_the_point_that_rounding_adds_to_trailing_timesteps_is_left_out() -> None:
    scheduler = scheduler_of("ddim", timestep_spacing="trailing")
    scheduler.set_timesteps(61)
    assert scheduler.timesteps[-1] == -1
    plan = make_diffusers_plan(schedule_of(scheduler), 61)
    assert plan.table[:, 0].tolist() == scheduler.timesteps[:-1].tolist()


def test_euler_starts_from_scaled_noise() -> None:
    for spacing in SPACINGS:
        scheduler = scheduler_of("euler", **STABLE, timestep_spacing=spacing)
        scheduler.set_timesteps(10)
        scale = scheduler.init_noise_sigma / (scheduler.sigmas[0] ** 2 + 1) ** 0.5
        plan = make_diffusers_plan(schedule_of(scheduler), 10)
        assert plan.noise_scale == pytest.approx(float(scale), rel=1e-6)
        assert (plan.noise_scale == 1) == (spacing == "leading")


@pytest.mark.parametrize(
    ("solver", "arguments", "message"),
    [
        ("ddim", {"steps": 0}, "steps 0 is out of range; this model allows 1 to 1000"),
        ("ddim", {"steps": 1001}, "steps 1001 is out of range"),
        ("lcm", {"steps": 51}, "this model allows 1 to 50"),
        ("ddim", {"steps": 5, "eta": 1.1}, "eta 1.1 is out of range"),
        ("euler", {"steps": 5, "eta": 0.1}, "eta 0.1 is out of range"),
        ("euler", {"steps": 5, "strength": 0.0}, "strength 0.0 is out of range"),
        ("euler", {"steps": 5, "strength": 0.1}, "strength 0.1 leaves no step of 5; at least 0.2 is needed"),
    ],
)
def test_what_is_out_of_range(solver: DiffusionSolver, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_diffusers_plan(schedule_of(scheduler_of(solver)), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("solver", "config", "steps", "message"),
    [
        ("ddim", {"steps_offset": 1}, 1000, "steps_offset 1 moves the first timestep above the last one trained"),
        ("euler", {"steps_offset": 1, "timestep_spacing": "leading"}, 1000, "steps 1000 is too many"),
        ("dpmpp_2m", {"timestep_spacing": "leading"}, 1000, "steps 1000 is too many for timestep_spacing leading"),
        (
            "ddim",
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            5,
            "prediction_type epsilon needs",
        ),
    ],
)
def test_plans_that_diffusers_would_compute_wrongly(
    solver: DiffusionSolver, config: dict[str, object], steps: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_diffusers_plan(schedule_of(scheduler_of(solver, **config)), steps)


@st.composite
def plans(draw_from: st.DrawFn) -> tuple[DiffusionSchedule, Plan]:
    solver = draw_from(st.sampled_from(SOLVERS))
    config = {
        "_class_name": CLASSES[solver],
        "num_train_timesteps": draw_from(st.integers(100, 1000)),
        "beta_schedule": draw_from(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"])),
        "timestep_spacing": draw_from(st.sampled_from(SPACINGS)),
        "steps_offset": draw_from(st.integers(0, 1)),
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": draw_from(st.booleans()),
        "use_karras_sigmas": draw_from(st.booleans()),
        "set_alpha_to_one": draw_from(st.booleans()),
    }
    schedule = DiffusionSchedule.from_config(config)
    steps, strength = draw_from(st.integers(1, 50)), draw_from(st.floats(0.02, 1.0))
    assume(int(steps * strength) > 0)
    eta = draw_from(st.floats(0, 1)) if solver == "ddim" else 0.0
    return schedule, make_diffusers_plan(schedule, steps, eta, strength)


@given(plans())
def test_a_plan_is_finite_and_ends_at_the_clean_end(made: tuple[DiffusionSchedule, Plan]) -> None:
    schedule, plan = made
    assert plan.levels is not None
    assert plan.table.isfinite().all()
    assert plan.levels[:, [0, 1, 3]].isfinite().all()
    alpha, sigma = plan.levels[-2, :2]
    _t, a, b, c, d = plan.table[-1]
    lowest = (1 - alphas_cumprod(schedule)[0]).sqrt()
    assert float(a * alpha + b + c) == pytest.approx(1, abs=0.01)
    assert float(((a * sigma) ** 2 + d**2).sqrt()) <= float(lowest) + 0.01
    assert plan.levels[-1].tolist() == [1.0, 0.0, float("inf"), 0.0]


@given(plans())
def test_each_row_leads_to_the_level_of_the_next(made: tuple[DiffusionSchedule, Plan]) -> None:
    schedule, plan = made
    assume(schedule.solver not in ("ddim", "lcm"))  # ddim ends its steps elsewhere, lcm adds noise of another level
    assert plan.levels is not None
    (alpha, sigma), (_t, a, b, c, d) = plan.levels[:-1, :2].T, plan.table.T
    torch.testing.assert_close(a * alpha + b + c, plan.levels[1:, 0], rtol=0, atol=1e-9)
    if schedule.solver != "ddpm":  # its posterior's variance is that of a given clean latent
        torch.testing.assert_close(((a * sigma) ** 2 + d**2).sqrt(), plan.levels[1:, 1], rtol=0, atol=1e-9)


def test_a_plan_is_the_same_each_time() -> None:
    for solver in SOLVERS:
        first, second = (make_diffusers_plan(schedule_of(scheduler_of(solver)), 20) for _ in range(2))
        assert first.levels is not None
        assert second.levels is not None
        assert torch.equal(first.table, second.table)
        assert torch.equal(first.levels, second.levels)
