"""The timesteps and noise levels of a plan, as diffusers' schedulers choose them.

diffusers multiplies its betas in float32. The products are taken as they are, because at both ends of a schedule they
differ from the exact ones by up to 1e-4, and computed with in float64.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.sampling.coefficients import Level
from service.sampling.diffusers_schedule import DiffusionSchedule
from service.sampling.schedules import cosine_betas

Array = npt.NDArray[np.float64]

#: The signal of a last timestep without signal, for the solvers that divide by it: float16's smallest number.
_LEAST_SIGNAL = 2**-24


class Course(NamedTuple):
    """The steps of a plan before they become a table: the timestep of each step and its noise levels.

    `t` is (steps,) float64. A step begins at `now` and ends at `after`, which is not always the next step's `now`.
    `full_steps` counts also the steps that a lower strength leaves out.
    """

    t: Tensor
    now: Level
    after: Level
    full_steps: int

    def last_part(self, first: int) -> "Course":
        """The steps from `first` on."""
        rows = slice(first, None)
        return Course(self.t[rows], self.now.rows(rows), self.after.rows(rows), self.full_steps)


def ddim_course(schedule: DiffusionSchedule, steps: int) -> Course:
    """The steps of DDIMScheduler: each ends num_train_timesteps // steps below its start, with any spacing."""
    timesteps = _below_the_end(schedule, _rounded(schedule, steps))
    signal = alphas_cumprod(schedule)
    ends = timesteps - schedule.num_train_timesteps // steps
    last = torch.ones_like(signal[0]) if schedule.set_alpha_to_one else signal[0]
    after = torch.where(ends >= 0, signal[ends.clamp(min=0)], last)
    return Course(timesteps.double(), _level(signal[timesteps]), _level(after), steps)


def ddpm_course(schedule: DiffusionSchedule, steps: int) -> Course:
    """The steps of DDPMScheduler: each ends where the next begins, the last one at the clean end."""
    return _chain(schedule, _below_the_end(schedule, _rounded(schedule, steps)), steps)


def lcm_course(schedule: DiffusionSchedule, steps: int, strength: float = 1.0) -> Course:
    """The steps of LCMScheduler, out of the timesteps that the model was distilled on.

    `strength` below 1 takes them from the lower part of those timesteps, as LatentConsistencyModelImg2ImgPipeline.
    """
    originals = int(schedule.original_inference_steps * strength)
    if steps > originals:
        raise ValueError(f"steps {steps} is out of range; with strength {strength} this model allows 1 to {originals}")
    stride = schedule.num_train_timesteps // schedule.original_inference_steps
    taken = np.floor(np.linspace(0, originals, steps, endpoint=False)).astype(np.int64)
    return _chain(schedule, torch.from_numpy((originals - taken) * stride - 1), steps)


def sigma_course(schedule: DiffusionSchedule, steps: int) -> Course:
    """The steps of the schedulers that count in sigma = noise / signal: DPMSolverMultistep, Euler, EulerAncestral."""
    signal = alphas_cumprod(schedule).float()
    every = (((1 - signal) / signal) ** 0.5).numpy()
    every_log = np.log(every)
    timesteps = _timesteps_in_sigma(schedule, steps, every_log)
    sigmas = np.interp(timesteps, np.arange(len(every)), every)
    if _uses_karras(schedule):
        known = every if schedule.solver == "dpmpp_2m" else sigmas[::-1]
        sigmas = _karras_sigmas(schedule, float(known[0]), float(known[-1]), steps)
        timesteps = _karras_timesteps(schedule, sigmas, every_log)
    if np.any(np.diff(sigmas) >= 0):
        raise ValueError(f"steps {steps} is too many for timestep_spacing {schedule.timestep_spacing}")
    last = every[0] if _ends_above_zero(schedule) else 0.0
    sigma = torch.from_numpy(np.append(sigmas, last).astype(np.float32)).double()
    alpha = 1 / (sigma**2 + 1).sqrt()
    sigma *= alpha
    t = torch.from_numpy(timesteps.astype(np.float32)).double()
    return Course(t, Level(alpha[:-1], sigma[:-1]), Level(alpha[1:], sigma[1:]), len(timesteps))


@lru_cache(maxsize=16)
def alphas_cumprod(schedule: DiffusionSchedule) -> Tensor:
    """Alpha-bar at every training timestep, (num_train_timesteps,) float64 with the values of diffusers' float32."""
    signal = torch.cumprod(1.0 - _betas(schedule), dim=0)
    if schedule.rescale_betas_zero_snr and schedule.solver in ("dpmpp_2m", "euler", "euler_ancestral"):
        signal[-1] = _LEAST_SIGNAL
    return signal.double()


def _betas(schedule: DiffusionSchedule) -> Tensor:
    first, last, count = schedule.beta_start, schedule.beta_end, schedule.num_train_timesteps
    if schedule.trained_betas is not None:
        betas = torch.tensor(schedule.trained_betas, dtype=torch.float32)
    elif schedule.beta_schedule == "linear":
        betas = torch.linspace(first, last, count, dtype=torch.float32)
    elif schedule.beta_schedule == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, count, dtype=torch.float32) ** 2
    else:
        betas = cosine_betas(count).float()
    return _without_last_signal(betas) if schedule.rescale_betas_zero_snr else betas


def _without_last_signal(betas: Tensor) -> Tensor:
    """Betas whose last timestep has no signal (Lin et al. 2024, algorithm 1), in float32."""
    root = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    signal = ((root - last) * (first / (first - last))) ** 2
    return 1 - torch.cat([signal[:1], signal[1:] / signal[:-1]])


def _level(signal: Tensor) -> Level:
    return Level(signal.sqrt(), (1.0 - signal).sqrt())


def _chain(schedule: DiffusionSchedule, timesteps: Tensor, steps: int) -> Course:
    signal = torch.cat([alphas_cumprod(schedule)[timesteps], torch.ones(1, dtype=torch.float64)])
    return Course(timesteps.double(), _level(signal[:-1]), _level(signal[1:]), steps)


def _spaced(schedule: DiffusionSchedule, last: int, points: int, stride: float) -> Array:
    """`points` timesteps below `last`, falling, not rounded; fewer when `last` is low (Lin et al. 2024, table 2)."""
    if schedule.timestep_spacing == "linspace":
        return np.linspace(0, last - 1, points)[::-1]
    if schedule.timestep_spacing == "leading":
        return np.arange(points, dtype=np.float64)[::-1] * (last // points) + schedule.steps_offset
    # Rounding adds a point at -1 for some numbers of steps, 61 of 1,000 for one. diffusers hands it to the network.
    return np.arange(last, 0, -stride)[:points].round() - 1


def _rounded(schedule: DiffusionSchedule, steps: int) -> Tensor:
    last = schedule.num_train_timesteps
    return torch.from_numpy(_spaced(schedule, last, steps, last / steps).round().astype(np.int64))


def _below_the_end(schedule: DiffusionSchedule, timesteps: Tensor) -> Tensor:
    if timesteps[0] >= schedule.num_train_timesteps:
        allowed = f"steps_offset {schedule.steps_offset} moves the first timestep above the last one trained"
        raise ValueError(f"steps {len(timesteps)} is too many: {allowed}")
    return timesteps


def _timesteps_in_sigma(schedule: DiffusionSchedule, steps: int, log_sigmas: npt.NDArray[np.float32]) -> Array:
    last = schedule.num_train_timesteps
    if schedule.solver != "dpmpp_2m":
        return _spaced(schedule, last, steps, last / steps).astype(np.float32).astype(np.float64)
    # lambda is -log sigma: timesteps whose lambda is below the bound are left out.
    last = int(np.count_nonzero(-log_sigmas >= schedule.lambda_min_clipped))
    points = steps if schedule.timestep_spacing == "trailing" else steps + 1  # the last point would be the clean end
    return _spaced(schedule, last, points, schedule.num_train_timesteps / steps).round()[:steps]


def _uses_karras(schedule: DiffusionSchedule) -> bool:
    return schedule.use_karras_sigmas and schedule.solver != "euler_ancestral"


def _ends_above_zero(schedule: DiffusionSchedule) -> bool:
    return schedule.final_sigmas_type == "sigma_min" and schedule.solver != "euler_ancestral"


def _karras_sigmas(schedule: DiffusionSchedule, lowest: float, highest: float, steps: int) -> Array:
    """Karras et al. 2022, equation 5, with rho = 7."""
    lowest, highest = schedule.sigma_min or lowest, schedule.sigma_max or highest
    first, last = highest ** (1 / 7), lowest ** (1 / 7)
    sigmas: Array = (first + np.linspace(0, 1, steps) * (last - first)) ** 7
    return sigmas


def _karras_timesteps(schedule: DiffusionSchedule, sigmas: Array, log_sigmas: npt.NDArray[np.float32]) -> Array:
    """The timesteps of any sigmas, by interpolation between the logarithms of those trained; whole for dpmpp_2m."""
    wanted = np.log(sigmas)
    low = np.clip(np.searchsorted(log_sigmas, wanted, side="right") - 1, 0, len(log_sigmas) - 2)
    share = np.clip((log_sigmas[low] - wanted) / (log_sigmas[low] - log_sigmas[low + 1]), 0, 1)
    timesteps: Array = (1 - share) * low + share * (low + 1)
    if schedule.solver != "dpmpp_2m":
        return timesteps
    return np.trunc(timesteps) if schedule.beta_schedule == "squaredcos_cap_v2" else timesteps.round()
