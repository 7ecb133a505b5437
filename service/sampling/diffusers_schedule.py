"""What a model in diffusers' format says about its noise and its steps: its scheduler_config.json, checked."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DiffusionSolver = Literal["ddim", "ddpm", "dpmpp_2m", "euler", "euler_ancestral", "lcm"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]

SOLVERS: tuple[DiffusionSolver, ...] = get_args(DiffusionSolver)
MAX_TIMESTEPS = 10_000

#: The classes whose steps we compute exactly.
_EXACT: dict[str, DiffusionSolver] = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "LCMScheduler": "lcm",
}
#: Classes whose longer history, corrector or second prediction per step is not a row of our tables.
_SUBSTITUTED: tuple[str, ...] = (
    "DEISMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
CLASSES = (*_EXACT, *_SUBSTITUTED)
#: What the network was trained with, where the folder's class has other defaults than the fields below.
_STABLE_BETAS: dict[str, object] = {"beta_start": 0.00085, "beta_end": 0.012}
_TRAINED: dict[str, dict[str, object]] = {
    "DPMSolverSDEScheduler": _STABLE_BETAS,
    "HeunDiscreteScheduler": _STABLE_BETAS,
    "KDPM2AncestralDiscreteScheduler": _STABLE_BETAS,
    "KDPM2DiscreteScheduler": _STABLE_BETAS,
    "LCMScheduler": {**_STABLE_BETAS, "beta_schedule": "scaled_linear"},
}
#: How to step, where the solver's class has other defaults than the fields below.
_STEPPED: dict[DiffusionSolver, dict[str, object]] = {
    "ddim": {"clip_sample": True},
    "ddpm": {"clip_sample": True},
    "dpmpp_2m": {"timestep_spacing": "linspace"},
    "euler": {"timestep_spacing": "linspace"},
    "euler_ancestral": {"timestep_spacing": "linspace"},
    "lcm": {},
}
#: Fields that have the same name in other classes, but not the same meaning.
_OF_THE_CLASS = ("solver_order", "solver_type", "algorithm_type", "lower_order_final")
#: The values of fields that change a solver's arithmetic and that its table does not have.
_REQUIRED: dict[DiffusionSolver, dict[str, tuple[object, ...]]] = {
    "ddim": {},
    "ddpm": {"variance_type": ("fixed_small", "fixed_small_log", "fixed_large")},
    "dpmpp_2m": {
        "algorithm_type": ("dpmsolver++",),
        "solver_order": (2,),
        "solver_type": ("midpoint",),
        "use_exponential_sigmas": (False,),
        "use_beta_sigmas": (False,),
        "use_lu_lambdas": (False,),
        "use_flow_sigmas": (False,),
        "use_dynamic_shifting": (False,),
    },
    "euler": {
        "interpolation_type": ("linear",),
        "timestep_type": ("discrete",),
        "use_exponential_sigmas": (False,),
        "use_beta_sigmas": (False,),
    },
    "euler_ancestral": {},
    "lcm": {},
}

_Beta = Annotated[float, Field(gt=0, lt=1)]
_Sigma = Annotated[float, Field(gt=0)]


class DiffusionSchedule(BaseModel):
    """A diffusers scheduler's configuration for one solver; fields that the solver does not read are ignored.

    The fields are those of scheduler_config.json, with its names. `note` says what differs from the folder's own
    scheduler; it is empty where nothing does.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    solver: DiffusionSolver
    note: str = ""
    num_train_timesteps: Annotated[int, Field(ge=1, le=MAX_TIMESTEPS)] = 1000
    beta_start: _Beta = 1e-4
    beta_end: _Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Annotated[tuple[_Beta, ...], Field(max_length=MAX_TIMESTEPS)] | None = None
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "leading"
    steps_offset: Annotated[int, Field(ge=0, lt=MAX_TIMESTEPS)] = 0
    rescale_betas_zero_snr: bool = False
    thresholding: Literal[False] = False
    clip_sample: bool = False
    clip_sample_range: Annotated[float, Field(gt=0)] = 1.0
    set_alpha_to_one: bool = True
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"] = "fixed_small"
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: Annotated[float, Field(le=0, allow_inf_nan=True)] = -float("inf")
    use_karras_sigmas: bool = False
    sigma_min: _Sigma | None = None
    sigma_max: _Sigma | None = None
    original_inference_steps: Annotated[int, Field(ge=1, le=MAX_TIMESTEPS)] = 50
    timestep_scaling: Annotated[float, Field(gt=0)] = 10.0

    @classmethod
    def from_config(cls, config: Mapping[str, object], solver: DiffusionSolver | None = None) -> Self:
        """The schedule of a scheduler_config.json, for a solver; None is the one that serves the folder's class.

        A field that the file does not have is, as in diffusers' own `from_config`, the default of the class of the
        solver, except what the network was trained with: that is the default of the folder's class.

        Raises:
            ValueError: a value that is unknown, out of bounds or not supported, with the field and what is allowed.
        """
        name = config.get("_class_name")
        if not isinstance(name, str) or name not in (*_EXACT, *_SUBSTITUTED):
            raise ValueError(
                f"_class_name {name!r:.60} is not supported; allowed: {', '.join((*_EXACT, *_SUBSTITUTED))}"
            )
        own = _EXACT.get(name, "dpmpp_2m")
        chosen = own if solver is None else solver
        if chosen not in SOLVERS:
            raise ValueError(f"solver {chosen!r:.60} is unknown; allowed: {', '.join(SOLVERS)}")
        given = {field: value for field, value in config.items() if value is not None}
        if _EXACT.get(name) != chosen:
            given = {field: value for field, value in given.items() if field not in _OF_THE_CLASS}
        _require(given, _REQUIRED[chosen])
        substituted = name in _SUBSTITUTED and solver is None
        note = f"the folder's {name} is served with {chosen}" if substituted else ""
        return cls._checked({**_STEPPED[chosen], **_TRAINED.get(name, {}), **given, "solver": chosen, "note": note})

    @property
    def max_steps(self) -> int:
        """The most steps that a plan may have."""
        return self.original_inference_steps if self.solver == "lcm" else self.num_train_timesteps

    @property
    def clip(self) -> float:
        """The bound of x_start at every step; infinity for none. The solvers in sigma know no bound."""
        bounded = self.clip_sample and self.solver in ("ddim", "ddpm", "lcm")
        return self.clip_sample_range if bounded else float("inf")

    @classmethod
    def _checked(cls, fields: dict[str, Any]) -> Self:
        betas = fields.get("trained_betas")
        if isinstance(betas, list):
            fields["trained_betas"] = tuple(betas[: MAX_TIMESTEPS + 1])  # one more than allowed, so that it is refused
        try:
            return cls(**{field: value for field, value in fields.items() if field in cls.model_fields})
        except ValidationError as failure:
            raise ValueError(_reason(failure)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(f"trained_betas must have num_train_timesteps = {self.num_train_timesteps} values")
        if self.original_inference_steps > self.num_train_timesteps and self.solver == "lcm":
            raise ValueError(f"original_inference_steps must be at most {self.num_train_timesteps}")
        return self


def stable_diffusion_config(config: Mapping[str, object]) -> dict[str, object]:
    """The scheduler's configuration as diffusers' Stable Diffusion 1.x and 2.x pipelines change it when they load it.

    They read steps_offset as 1 and do not clip latents, whatever an old file says. Their inpainting pipeline does clip
    if the file says so.
    """
    return {**config, "steps_offset": 1, "clip_sample": False}


def _require(given: Mapping[str, object], required: Mapping[str, tuple[object, ...]]) -> None:
    for field, allowed in required.items():
        if field in given and given[field] not in allowed:
            raise ValueError(f"{field} {given[field]!r:.60} is not supported; allowed: {', '.join(map(str, allowed))}")


def _reason(failure: ValidationError) -> str:
    first = failure.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "literal_error":
        return f"{field} {first['input']!r:.60} is not supported; allowed: {first['ctx']['expected']}"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
