import math

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contract.manifest import NoiseSchedule
from service.sampling.schedules import alpha_sigma, alphas_cumprod, trailing_timesteps

LINEAR = NoiseSchedule(kind="linear", timesteps=1000)
COSINE = NoiseSchedule(kind="cosine", timesteps=1000)
DIFFUSERS_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda schedule: schedule.kind)
def test_schedule_is_that_of_diffusers(schedule: NoiseSchedule) -> None:
    reference = diffusers.DDPMScheduler(beta_schedule=DIFFUSERS_NAMES[schedule.kind]).alphas_cumprod
    # Relative: near the noisy end alpha-bar is small and divides. Their betas are float32, hence no closer.
    torch.testing.assert_close(alphas_cumprod(schedule), reference.double(), rtol=5e-5, atol=0)


def test_linear_schedule_follows_its_betas() -> None:
    schedule = NoiseSchedule(kind="linear", timesteps=3, beta_start=0.1, beta_end=0.5)
    expected = torch.tensor([0.9, 0.9 * 0.7, 0.9 * 0.7 * 0.5], dtype=torch.float64)
    torch.testing.assert_close(alphas_cumprod(schedule), expected)


def test_cosine_schedule_is_the_papers_closed_form_until_the_cap() -> None:
    def squared_cosine(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [squared_cosine((index + 1) / 1000) / squared_cosine(0) for index in range(999)]
    actual = alphas_cumprod(COSINE)
    torch.testing.assert_close(actual[:-1], torch.tensor(expected, dtype=torch.float64))
    # Uncapped, the last alpha-bar would be 0 and its logarithm infinite.
    torch.testing.assert_close(actual[-1] / actual[-2], torch.tensor(0.001, dtype=torch.float64))


@given(kind=st.sampled_from(["linear", "cosine"]), timesteps=st.integers(1, 2000))
def test_noise_only_grows_and_power_is_kept(kind: str, timesteps: int) -> None:
    schedule = NoiseSchedule.model_validate({"kind": kind, "timesteps": timesteps})
    alpha, sigma = alpha_sigma(schedule)
    assert alpha.dtype == sigma.dtype == torch.float64
    assert alpha.shape == sigma.shape == (timesteps,)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert (alpha > 0).all()
    assert (sigma > 0).all()
    assert (sigma.diff() >= 0).all()
    assert (alpha.diff() < 0).all()


@given(timesteps=st.integers(1, 2000))
def test_a_flow_is_the_straight_line_from_picture_to_noise(timesteps: int) -> None:
    alpha, sigma = alpha_sigma(NoiseSchedule(kind="flow", timesteps=timesteps))
    assert alpha.dtype == sigma.dtype == torch.float64
    assert torch.equal(alpha + sigma, torch.ones_like(alpha))
    torch.testing.assert_close(sigma, torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps)
    assert (float(alpha[-1]), float(sigma[-1])) == (0.0, 1.0)  # nothing of the picture is left


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 10, 13, 20, 30, 50, 64, 100, 333, 1000])
def test_trailing_timesteps_are_those_of_diffusers(steps: int) -> None:
    reference = diffusers.DDIMScheduler(timestep_spacing="trailing")
    reference.set_timesteps(steps)
    assert trailing_timesteps(999, steps) == reference.timesteps.tolist()


@given(data=st.data(), last=st.integers(0, 1999))
def test_trailing_timesteps_start_at_the_last_and_fall_evenly(data: st.DataObject, last: int) -> None:
    steps = data.draw(st.integers(1, last + 1))
    timesteps = [*trailing_timesteps(last, steps), -1]
    assert timesteps[0] == last
    assert len(timesteps) == steps + 1
    strides = -np.diff(timesteps)
    assert strides.min() >= 1
    assert strides.max() - strides.min() <= 2


def test_all_steps_visit_every_timestep() -> None:
    assert trailing_timesteps(9, 10) == list(range(9, -1, -1))
