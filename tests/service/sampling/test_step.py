import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.contract.manifest import NoiseSchedule
from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.solvers import Plan, make_plan
from service.sampling.step import (
    Guidance,
    Inpaint,
    Inputs,
    clip_x_start,
    guide,
    keep_known,
    predict_x_start,
    update,
    x_start_from,
)

SHAPE = (2, 3, 4)
CLASSES = 3
SCHEDULE = NoiseSchedule(kind="cosine", timesteps=100)
PLANS = (
    make_plan(SCHEDULE, 0.9, "ddpm", 6),
    make_plan(SCHEDULE, 0.9, "ddim", 4),
    make_plan(SCHEDULE, 0.9, "ddim", 5, eta=0.7),
    make_plan(SCHEDULE, 0.9, "dpmpp_2m", 7),
    make_plan(SCHEDULE, 0.5, "dpmpp_2m", 1),
    make_plan(SCHEDULE, 0.9, "consistency", 3),
    make_plan(NoiseSchedule(kind="flow", timesteps=100), 1.0, "dpmpp_2m", 5),
)


class Recorder:
    """A denoiser that reads all its arguments and keeps them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        label = inputs["label"]
        self.calls.append((x, t, label))
        shape = (-1, *[1] * (x.ndim - 1))
        return torch.sin(x) * (1 + label.view(shape)) + t.view(shape)


def rows(count: int) -> tuple[Tensor, Tensor, Inputs]:
    """x, t and label of `count` different rows."""
    x = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    return x, torch.linspace(0.1, 1.0, count), {"label": torch.arange(count) % CLASSES}


def every(count: int, label: int) -> Inputs:
    """The same label for each of `count` rows."""
    return {"label": torch.full((count,), label)}


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_guidance_scales_are_the_papers(shape: tuple[int, ...]) -> None:
    conditional, unconditional = torch.randn(2, 4, *shape, dtype=torch.float64)
    scale = torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=torch.float64)
    guided = guide(conditional, unconditional, scale)
    torch.testing.assert_close(guided[0], unconditional[0])
    torch.testing.assert_close(guided[1], conditional[1])
    torch.testing.assert_close(guided[2], 2 * conditional[2] - unconditional[2])
    torch.testing.assert_close(guided[3], (conditional[3] + unconditional[3]) / 2)


def guidance(guided: list[int], scale: list[float], negative_label: int = CLASSES) -> Guidance:
    rows = torch.tensor(guided)
    return Guidance(rows, torch.tensor(scale), {"label": torch.full_like(rows, negative_label)})


def test_without_guided_rows_the_network_sees_the_batch_once() -> None:
    x, t, inputs = rows(4)
    denoise = Recorder()
    x_start = predict_x_start(denoise, x, t, inputs, None, None, None)
    assert torch.equal(x_start, Recorder()(x, t, inputs))
    (call,) = denoise.calls
    assert [len(argument) for argument in call] == [4, 4, 4]


def test_only_guided_rows_are_guided() -> None:
    x, t, inputs = rows(4)
    denoise = Recorder()
    guided = [1, 3]
    x_start = predict_x_start(denoise, x, t, inputs, guidance(guided, [3.0, 0.0]), None, None)

    conditional = Recorder()(x, t, inputs)
    unconditional = Recorder()(x, t, every(4, CLASSES))
    torch.testing.assert_close(x_start[[0, 2]], conditional[[0, 2]])
    torch.testing.assert_close(x_start[1], unconditional[1] + 3 * (conditional[1] - unconditional[1]))
    torch.testing.assert_close(x_start[3], unconditional[3])

    (call,) = denoise.calls
    assert torch.equal(call[0], torch.cat([x, x[guided]]))
    assert torch.equal(call[1], torch.cat([t, t[guided]]))
    assert call[2].tolist() == [0, 1, 2, 0, CLASSES, CLASSES]
    assert call[2].dtype == torch.int64


def test_clamp_comes_after_guidance() -> None:
    x, t, inputs = rows(4)
    guided = guidance([0, 1, 2, 3], [5.0] * 4)
    free = predict_x_start(Recorder(), x, t, inputs, guided, None, None)
    clamped = predict_x_start(Recorder(), x, t, inputs, guided, None, (-0.5, 0.25))
    assert free.min() < -0.5
    assert free.max() > 0.25
    assert torch.equal(clamped, free.clamp(-0.5, 0.25))


def test_each_guided_row_is_led_away_from_its_own_label() -> None:
    """And two classes are blended by taking one for the other's negative label."""
    x, t, inputs = rows(3)
    denoise = Recorder()
    negative = Guidance(torch.tensor([0, 2]), torch.tensor([2.0, 0.25]), {"label": torch.tensor([CLASSES, 1])})
    x_start = predict_x_start(denoise, x, t, inputs, negative, None, None)
    of = [Recorder()(x, t, every(3, each)) for each in range(CLASSES + 1)]
    torch.testing.assert_close(x_start[0], 2 * of[0][0] - of[CLASSES][0])
    torch.testing.assert_close(x_start[1], of[1][1])
    torch.testing.assert_close(x_start[2], 0.25 * of[2][2] + 0.75 * of[1][2])


@pytest.mark.parametrize("x0_range", [None, (-0.5, 0.5)])
def test_what_is_known_comes_after_the_clamp_and_exactly(x0_range: tuple[float, float] | None) -> None:
    x, t, inputs = rows(3)
    known = torch.full((3, *SHAPE), 0.7)  # beyond the clamp
    mask = torch.tensor([1.0, 0.0, 0.25]).view(3, 1, 1, 1).expand_as(known)
    free = predict_x_start(Recorder(), x, t, inputs, None, None, x0_range)
    held = predict_x_start(Recorder(), x, t, inputs, None, Inpaint(mask, known), x0_range)
    assert torch.equal(held[0], free[0])
    assert torch.equal(held[1], known[1])
    torch.testing.assert_close(held[2], 0.25 * free[2] + 0.75 * known[2])


@pytest.mark.parametrize("guided", [None, guidance([0], [2.0])])
def test_solver_stays_in_its_precision_beside_a_half_precision_network(guided: Guidance | None) -> None:
    x, t, inputs = rows(2)

    def denoise(x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        return x.bfloat16()

    x_start = predict_x_start(denoise, x, t, inputs, guided, None, None)
    assert x_start.dtype == torch.float32
    assert update(x, x_start, x_start, torch.ones(2, 4, dtype=torch.float64), None).dtype == torch.float32


def test_update_is_the_recurrence_row_by_row() -> None:
    x, x_start, x_start_prev, noise = torch.randn(4, 3, *SHAPE)
    coefficients = torch.randn(3, 4)
    x_next = update(x, x_start, x_start_prev, coefficients, noise)
    for row, (a, b, c, d) in enumerate(coefficients):
        expected = a * x[row] + b * x_start[row] + c * x_start_prev[row] + d * noise[row]
        torch.testing.assert_close(x_next[row], expected)


def test_update_without_noise_leaves_d_out() -> None:
    x, x_start, x_start_prev = torch.randn(3, 2, *SHAPE)
    coefficients = torch.randn(2, 4)
    expected = update(x, x_start, x_start_prev, coefficients, torch.zeros_like(x))
    torch.testing.assert_close(update(x, x_start, x_start_prev, coefficients, None), expected)


def alone(plan: Plan, seed: int, label: int, scale: float) -> Tensor:
    noise = RowNoise(seed)
    latent = noise.draw(SHAPE).unsqueeze(0)
    return sample(
        Recorder(),
        latent,
        [noise],
        every(1, label),
        plan,
        negative=every(1, CLASSES),
        guidance_scale=scale,
        x0_range=(-1.0, 1.0),
    )[0]


def together(plans: list[Plan], labels: list[int], scales: list[float], starts: list[int]) -> list[Tensor]:
    """All rows in one batch a tick; row i joins at tick `starts[i]` with seed i and leaves after its plan."""
    noises = [RowNoise(seed) for seed in range(len(plans))]
    x = torch.stack([noise.draw(SHAPE) for noise in noises])
    x_start_prev = torch.zeros_like(x)
    for tick in range(max(start + len(plan) for start, plan in zip(starts, plans, strict=True))):
        steps = [tick - start for start in starts]
        here = [row for row, step in enumerate(steps) if 0 <= step < len(plans[row])]
        if not here:
            continue
        table = torch.stack([plans[row].table[steps[row]] for row in here]).float()
        noise = torch.stack([noises[row].draw(SHAPE) if plans[row].table[:, 4].any() else x[0] * 0 for row in here])
        guided = [place for place, row in enumerate(here) if scales[row] != 1]
        inputs = {"label": torch.tensor([labels[row] for row in here])}
        guidance_here = guidance(guided, [scales[here[place]] for place in guided]) if guided else None
        x_start = predict_x_start(Recorder(), x[here], table[:, 0], inputs, guidance_here, None, (-1.0, 1.0))
        x[here] = update(x[here], x_start, x_start_prev[here], table[:, 1:], noise)
        x_start_prev[here] = x_start
    return list(x)


ROW = st.tuples(
    st.sampled_from(PLANS),
    st.integers(0, CLASSES),
    st.sampled_from([0.0, 1.0, 1.5, 3.0]),
    st.integers(0, 4),
)


@settings(max_examples=50)
@given(st.lists(ROW, min_size=1, max_size=6))
def test_row_does_not_depend_on_its_neighbours(mixed: list[tuple[Plan, int, float, int]]) -> None:
    """Rows with other plans, classes, guidance and arrival times: each picture is the one it is alone."""
    plans, labels, scales, starts = (list(column) for column in zip(*mixed, strict=True))
    for seed, x in enumerate(together(plans, labels, scales, starts)):
        expected = alone(plans[seed], seed, labels[seed], scales[seed])
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


ALPHA = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)
SIGMA = (1 - ALPHA**2).sqrt()


def three_pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Clean latents, noise, and latents noised to the levels of ALPHA and SIGMA, (3, *SHAPE) float64."""
    clean, noise = torch.randn(2, 3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alpha, sigma = ALPHA.view(3, 1, 1, 1), SIGMA.view(3, 1, 1, 1)
    return clean, noise, alpha * clean + sigma * noise


def test_every_prediction_gives_the_clean_latent() -> None:
    clean, noise, x = three_pairs()
    velocity = ALPHA.view(3, 1, 1, 1) * noise - SIGMA.view(3, 1, 1, 1) * clean
    signal = ALPHA > 0
    torch.testing.assert_close(x_start_from(clean, x, ALPHA, SIGMA, "sample"), clean)
    torch.testing.assert_close(x_start_from(velocity, x, ALPHA, SIGMA, "v_prediction"), clean)
    from_noise = x_start_from(noise[signal], x[signal], ALPHA[signal], SIGMA[signal], "epsilon")
    torch.testing.assert_close(from_noise, clean[signal])


def test_predictions_in_half_precision_are_used_in_that_of_the_latent() -> None:
    _clean, noise, x = three_pairs()
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        assert x_start_from(noise.half(), x, ALPHA, SIGMA, prediction_type).dtype == torch.float64


def test_a_clamp_keeps_the_predicted_noise_or_the_latent_of_each_row() -> None:
    clean, noise, x = three_pairs()
    bound, shift = torch.tensor([0.5, 0.5, float("inf")]), torch.stack([ALPHA[1] * 0, ALPHA[1], ALPHA[2]])
    shifted, clipped = clip_x_start(x, clean, bound, shift)
    torch.testing.assert_close(clipped[:2], clean[:2].clamp(-0.5, 0.5))
    assert torch.equal(clipped[2], clean[2])
    assert torch.equal(shifted[[0, 2]], x[[0, 2]])
    torch.testing.assert_close(shifted[1] - ALPHA[1] * clipped[1], SIGMA[1] * noise[1])


def test_a_clamp_does_not_hide_a_network_that_failed() -> None:
    _clean, _noise, x = three_pairs()
    failed = torch.full_like(x, float("inf"))
    _x, clipped = clip_x_start(x, failed, torch.ones(3), torch.zeros(3))
    assert clipped.isnan().all()


def test_the_known_part_is_at_the_level_of_each_row() -> None:
    clean, noise, x = three_pairs()
    mask = torch.zeros_like(x)
    mask[2] = 1.0  # a row without a mask
    mask[:2, :, 0] = 1.0
    kept = keep_known(torch.zeros_like(x), Inpaint(mask, clean), noise, ALPHA, SIGMA)
    torch.testing.assert_close(kept, (1 - mask) * x)
