"""scheduler_config.json: what is read, what is refused, and what the card says."""

import json
from contextlib import suppress
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.sampling.diffusers_levels import alphas_cumprod
from service.sampling.diffusers_schedule import CLASSES, SOLVERS, DiffusionSchedule, stable_diffusion_config
from tests.service.sampling.diffusers_reference import CLASSES as REFERENCES
from tests.service.sampling.diffusers_reference import scheduler_of

# The schedulers hand tensors to numpy the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

#: As in the folder of Stable Diffusion 1.5, which is older than most fields.
OLD_FOLDER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def of(name: str, **fields: Any) -> DiffusionSchedule:
    return DiffusionSchedule.from_config({"_class_name": name, **fields})


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_class_is_served_with_its_own_solver(solver: str) -> None:
    schedule = of(REFERENCES[solver])  # type: ignore[index]
    assert schedule.solver == solver
    assert schedule.note == ""


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(REFERENCES.values())))
def test_the_card_names_a_substituted_solver(name: str) -> None:
    config = {"_class_name": name, "solver_order": 3, "solver_type": "bh2", "algorithm_type": "deis"}
    schedule = DiffusionSchedule.from_config(config)
    assert schedule.solver == "dpmpp_2m"
    assert schedule.note == f"the folder's {name} is served with dpmpp_2m"
    assert DiffusionSchedule.from_config(config, "ddim").note == ""


def test_an_old_folder_steps_as_dpm_solver_made_from_it() -> None:
    schedule = DiffusionSchedule.from_config(OLD_FOLDER)
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(OLD_FOLDER)
    fields = set(DiffusionSchedule.model_fields) & set(scheduler.config)
    assert len(fields) > 10
    for field in fields - {"trained_betas", "variance_type"}:
        assert getattr(schedule, field) == scheduler.config[field], field


@pytest.mark.parametrize("solver", SOLVERS)
def test_absent_fields_have_the_defaults_of_diffusers(solver: str) -> None:
    scheduler = scheduler_of(solver)  # type: ignore[arg-type]
    schedule = of(REFERENCES[solver])  # type: ignore[index]
    for field in set(DiffusionSchedule.model_fields) & set(scheduler.config) - {"variance_type"}:
        assert getattr(schedule, field) == scheduler.config[field], field


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_saved_scheduler_is_read(solver: str, tmp_path: Any) -> None:
    scheduler_of(solver).save_pretrained(tmp_path)  # type: ignore[arg-type]
    schedule = DiffusionSchedule.from_config(json.loads((tmp_path / "scheduler_config.json").read_text()))
    assert schedule == of(REFERENCES[solver])  # type: ignore[index]
    assert hash(schedule) == hash(of(REFERENCES[solver]))  # type: ignore[index]


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("solver", ["ddim", "euler"])
def test_alphas_are_those_of_diffusers_to_the_last_bit(solver: str, betas: str, zero: bool) -> None:
    scheduler = scheduler_of(solver, beta_schedule=betas, rescale_betas_zero_snr=zero)  # type: ignore[arg-type]
    schedule = of(REFERENCES[solver], beta_schedule=betas, rescale_betas_zero_snr=zero)  # type: ignore[index]
    assert torch.equal(alphas_cumprod(schedule).float(), scheduler.alphas_cumprod)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": None}, "_class_name None is not supported; allowed: DDIMScheduler"),
        ({"_class_name": ["DDIMScheduler"]}, "_class_name .* is not supported"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name 'FlowMatch.* is not supported"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid' is not supported; allowed: 'linear', 'scaled_linear'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction' is not supported; allowed: 'eps"),
        ({"timestep_spacing": "uneven"}, "timestep_spacing 'uneven' is not supported; allowed: 'leading', 'linspace'"),
        ({"thresholding": True}, "thresholding True is not supported; allowed: False"),
        ({"variance_type": "learned_range"}, "variance_type 'learned_range' is not supported; allowed: 'fixed_small'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps: Input should be greater than or equal to 1"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps: Input should be less than or equal to 10000"),
        ({"num_train_timesteps": True}, "num_train_timesteps: "),
        ({"beta_start": float("nan")}, "beta_start: Input should be"),
        ({"beta_end": 1.0}, "beta_end: Input should be less than 1"),
        ({"steps_offset": -1}, "steps_offset: Input should be greater than or equal to 0"),
        ({"clip_sample": "yes"}, "clip_sample: Input should be a valid boolean"),
        ({"clip_sample_range": 0}, "clip_sample_range: Input should be greater than 0"),
        ({"lambda_min_clipped": float("nan")}, "lambda_min_clipped: Input should be"),
        ({"trained_betas": [0.1] * 3}, "trained_betas must have num_train_timesteps = 1000 values"),
        ({"trained_betas": [0.1] * 20_000}, "trained_betas: Tuple should have at most 10000 items"),
        ({"trained_betas": [2.0] * 1000}, "trained_betas.0: Input should be less than 1"),
        ({"trained_betas": "linear"}, "trained_betas: Input should be a valid tuple"),
    ],
)
def test_what_is_refused_names_the_field(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionSchedule.from_config({"_class_name": "DDIMScheduler", **fields})


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order 3 is not supported; allowed: 2"),
        ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "solver_type 'heun' is not supported"),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++"},
            "algorithm_type 'sde-dpmsolver.*allowed",
        ),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, "use_lu_lambdas True is not supported"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "use_flow_sigmas True is not supported"),
        ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, "interpolation_type 'log_linear' is not"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type 'continuous' is not supported"),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "use_beta_sigmas True is not supported; allowed: False"),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "one"}, "final_sigmas_type 'one' is not supported"),
        ("EulerDiscreteScheduler", {"sigma_max": -1.0}, "sigma_max: Input should be greater than 0"),
        ("DDPMScheduler", {"variance_type": "fixed_large_log"}, "variance_type 'fixed_large_log' is not supported"),
        ("LCMScheduler", {"original_inference_steps": 2000}, "original_inference_steps must be at most 1000"),
    ],
)
def test_what_a_solver_does_not_have(name: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of(name, **fields)


def test_fields_of_another_class_do_not_matter_to_a_solver() -> None:
    config = {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "use_lu_lambdas": True}
    assert DiffusionSchedule.from_config(config, "ddim").solver == "ddim"


def test_an_unknown_solver_is_named() -> None:
    with pytest.raises(ValueError, match="solver 'rk4' is unknown; allowed: ddim, ddpm"):
        DiffusionSchedule.from_config(OLD_FOLDER, "rk4")  # type: ignore[arg-type]


def test_only_solvers_that_clip_have_a_bound() -> None:
    config = {"_class_name": "DDIMScheduler", "clip_sample": True, "clip_sample_range": 2.0}
    bounds = {solver: DiffusionSchedule.from_config(config, solver).clip for solver in SOLVERS}
    assert {solver for solver, bound in bounds.items() if bound == 2.0} == {"ddim", "ddpm", "lcm"}
    assert bounds["euler"] == float("inf")


def test_stable_diffusion_pipelines_change_old_files() -> None:
    config = stable_diffusion_config({"_class_name": "DDIMScheduler", "steps_offset": 0})
    schedule = DiffusionSchedule.from_config(config)
    assert (schedule.steps_offset, schedule.clip_sample) == (1, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=2),
    max_leaves=4,
)


@given(
    name=st.sampled_from(CLASSES),
    fields=st.dictionaries(st.sampled_from([*DiffusionSchedule.model_fields, "solver_order", "x"]), JSON, max_size=4),
)
def test_any_json_is_a_schedule_or_a_value_error(name: str, fields: dict[str, object]) -> None:
    with suppress(ValueError):
        schedule = DiffusionSchedule.from_config({**fields, "_class_name": name})
        assert schedule.solver in SOLVERS
