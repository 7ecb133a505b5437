"""The plans of models in diffusers' format: the steps of its schedulers as rows of a table, in float64.

Schedulers that count in sigma are linear in their latent, so they are written in variance-preserving coordinates,
x = x_sigma / sqrt(1 + sigma**2), which is also what their network is given.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from service.sampling.coefficients import Coefficients, added_variance, ddim, ddpm, dpmpp_2m
from service.sampling.diffusers_levels import Course, ddim_course, ddpm_course, lcm_course, sigma_course
from service.sampling.diffusers_schedule import DiffusionSchedule, DiffusionSolver
from service.sampling.solvers import Plan


def make_diffusers_plan(
    schedule: DiffusionSchedule, steps: int, eta: float = 0.0, strength: float = 1.0, *, keep_steps: bool = False
) -> Plan:
    """The plan of `steps` steps of the schedule's solver, or its last part; column t is the UNet's timestep.

    Args:
        schedule: of scheduler_config.json, for one solver.
        steps: 1 to `schedule.max_steps`; some spacings allow fewer.
        eta: fraction of the ancestral noise that "ddim" adds, 0 to 1; 0 for the other solvers.
        strength: in (0, 1]: the last int(steps * strength) steps remain, as in the image-to-image and inpainting
            pipelines of diffusers. `Plan.start` noises the picture to the first of them.
        keep_steps: instead, "lcm" takes `steps` steps below the strength, as LatentConsistencyModelImg2ImgPipeline.

    Raises:
        ValueError: steps, eta or strength out of range, or a network of epsilon at a timestep without signal.
    """
    _check(schedule, steps, eta, strength)
    if schedule.solver == "lcm" and keep_steps:
        course = lcm_course(schedule, steps, strength)
    else:
        full = _COURSES[schedule.solver](schedule, steps)
        course = full.last_part(max(steps - int(steps * strength), 0))
    if not len(course.t):
        raise ValueError(f"strength {strength} leaves no step of {steps}; at least {1 / steps:.3g} is needed")
    if schedule.prediction_type == "epsilon" and course.now.alpha[0] == 0:
        raise ValueError(
            "prediction_type epsilon needs signal at the first timestep; rescale_betas_zero_snr leaves none"
        )
    table = torch.stack([course.t, *_COLUMNS[schedule.solver](schedule, course, eta)], dim=1)
    alpha, sigma = float(course.now.alpha[0]), float(course.now.sigma[0])
    return Plan(table, alpha, sigma, _noise_scale(schedule, sigma), _levels(schedule, course))


def _check(schedule: DiffusionSchedule, steps: int, eta: float, strength: float) -> None:
    if not 1 <= steps <= schedule.max_steps:
        raise ValueError(f"steps {steps} is out of range; this model allows 1 to {schedule.max_steps}")
    if not 0 <= eta <= (1 if schedule.solver == "ddim" else 0):
        raise ValueError(f"eta {eta} is out of range; ddim allows 0 to 1, the other solvers only 0")
    if not 0 < strength <= 1:
        raise ValueError(f"strength {strength} is out of range; it must be above 0 and at most 1")


def _noise_scale(schedule: DiffusionSchedule, sigma: float) -> float:
    """Euler's schedulers start from sigma times noise, without the picture's variance, unless they are "leading"."""
    unscaled = schedule.solver not in ("euler", "euler_ancestral") or schedule.timestep_spacing == "leading"
    return 1.0 if unscaled else sigma


def _levels(schedule: DiffusionSchedule, course: Course) -> Tensor:
    """The columns of `Plan.levels`, (steps + 1, 4).

    DDIMScheduler takes the noise from the prediction before its clamp; the other solvers take it from x.
    """
    shift = course.now.alpha if schedule.solver == "ddim" else torch.zeros_like(course.t)
    bound = torch.full_like(course.t, schedule.clip)
    levels = torch.stack([course.now.alpha, course.now.sigma, bound, shift], dim=1)
    return torch.cat([levels, levels.new_tensor([[1.0, 0.0, float("inf"), 0.0]])])


def _ddpm(schedule: DiffusionSchedule, course: Course, _eta: float) -> Coefficients:
    a, b, c, d = ddpm(course.now, course.after)
    if schedule.variance_type == "fixed_large":
        d = added_variance(course.now, course.after).sqrt() * (course.t > 0)
    return a, b, c, d


def _dpmpp_2m(schedule: DiffusionSchedule, course: Course, _eta: float) -> Coefficients:
    lower_order = schedule.euler_at_final or (schedule.lower_order_final and course.full_steps < 15)
    second_order_end = schedule.final_sigmas_type == "sigma_min" and not lower_order
    return dpmpp_2m(course.now, course.after, second_order_end=second_order_end)


def _euler(eta: float) -> "_Columns":
    def columns(_schedule: DiffusionSchedule, course: Course, _eta: float) -> Coefficients:
        a, b, c, d = ddim(course.now, course.after, eta)
        # The last latent is not scaled back: it is in coordinates of sigma, also when sigma does not end at 0.
        scale = torch.ones_like(a)
        scale[-1] = 1 / course.after.alpha[-1]
        return a * scale, b * scale, c, d

    return columns


def _lcm(schedule: DiffusionSchedule, course: Course, _eta: float) -> Coefficients:
    """Luo et al. 2023, "Latent Consistency Models": predict by the boundary condition, then add fresh noise."""
    time = course.t * schedule.timestep_scaling
    skip, out = 0.25 / (time**2 + 0.25), time / (time**2 + 0.25).sqrt()
    alpha, sigma = course.after
    return alpha * skip, alpha * out, torch.zeros_like(skip), sigma


_Columns = Callable[[DiffusionSchedule, Course, float], Coefficients]

_COURSES: dict[DiffusionSolver, Callable[[DiffusionSchedule, int], Course]] = {
    "ddim": ddim_course,
    "ddpm": ddpm_course,
    "dpmpp_2m": sigma_course,
    "euler": sigma_course,
    "euler_ancestral": sigma_course,
    "lcm": lcm_course,
}
_COLUMNS: dict[DiffusionSolver, _Columns] = {
    "ddim": lambda _schedule, course, eta: ddim(course.now, course.after, eta),
    "ddpm": _ddpm,
    "dpmpp_2m": _dpmpp_2m,
    "euler": _euler(0.0),
    "euler_ancestral": _euler(1.0),
    "lcm": _lcm,
}
