"""Arrays from outside as what rows begin with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.initial_latents import (
    around_picture,
    at_point,
    blended,
    decoded,
    from_latents,
    from_noise,
    from_picture,
    image_tensor,
    legs,
    mean_of,
    path_latents,
    repaint_mask,
    seed_latent,
    started_from,
)
from service.engine.model import Model
from service.engine.rows import RowSpec
from service.models.torchscript import load_model
from service.sampling.interpolate import positions
from service.sampling.noise import RowNoise
from service.sampling.pixels import to_uint8
from service.sampling.solvers import EMPTY_PLAN
from service.sampling.step import predict_x_start, update
from tests.service.artefacts import some_codes, write_autoencoder
from tests.service.engine.conftest import CPU

ROW = RowSpec(3, 1, 1.0, EMPTY_PLAN)
X_START = torch.linspace(-1, 1, 64).reshape(1, 8, 8)


def test_every_grey_level_comes_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    levels.flags.writeable = False
    image = image_tensor(levels)
    assert (image.shape, float(image.min()), float(image.max())) == ((1, 16, 16), -1.0, 1.0)
    assert (to_uint8(image[None])[0].numpy() == levels).all()


def test_a_mask_is_the_mean_of_what_each_place_of_the_latent_stands_for() -> None:
    picture = np.zeros((4, 4, 1), np.uint8)
    picture[0, 0], picture[2:, 2:] = 255, 255
    expected = torch.tensor([[[0.25, 0.0], [0.0, 1.0]]])
    assert torch.equal(repaint_mask(picture, (3, 2, 2), invert=False), expected)
    assert torch.equal(repaint_mask(picture, (3, 2, 2), invert=True), 1 - expected)
    assert torch.equal(
        repaint_mask(picture, (1, 4, 4), invert=False), torch.from_numpy(picture[None, :, :, 0] / 255.0).float()
    )


def test_noise_and_latents(one_shot: Model) -> None:
    latents = np.arange(8, dtype=np.float32).reshape(2, 4)
    for row, latent in zip(from_latents([ROW, ROW], latents), latents, strict=True):
        assert row.latent is not None
        assert (row.latent.numpy() == latent).all()
    short = from_noise([ROW], one_shot, 0.25)[0].latent
    assert short is not None
    assert torch.equal(short, 0.25 * seed_latent(one_shot, 3))


def test_a_row_starts_between_a_picture_and_the_noise_of_its_seed(diffusion: Model) -> None:
    plan = diffusion.plan("ddim", 10, strength=0.4)
    row = started_from(RowSpec(7, 1, 1.0, plan), X_START)
    assert row.latent is not None
    torch.testing.assert_close(row.latent, plan.alpha * X_START + plan.sigma * RowNoise(7).draw(X_START.shape))
    assert row._replace(latent=None) == RowSpec(7, 1, 1.0, plan)
    assert row.calls == 4


def test_of_a_picture_all_is_made_anew_at_strength_one(diffusion: Model) -> None:
    row, mask = ROW._replace(plan=diffusion.plan("ddim", 4)), torch.ones(1, 8, 8)
    assert from_picture([row], X_START, None, 1.0) == [row]
    masked = from_picture([row], X_START, mask, 1.0)[0]
    assert masked.latent is None
    assert masked.inpaint == (mask, X_START, None)
    half = row._replace(plan=diffusion.plan("ddim", 4, strength=0.5))
    begun = from_picture([half], X_START, None, 0.5)[0].latent
    assert begun is not None
    torch.testing.assert_close(begun, half.plan.start(X_START, seed_latent(diffusion, 3)))


def test_variations_are_draws_of_the_posterior() -> None:
    mean, logvar = np.array([1.0, -2.0, 0.0, 3.0], np.float32), np.array([0.0, -1.0, 1.0, -20.0], np.float32)
    code, rows = np.stack([mean, logvar]), [ROW._replace(seed=seed) for seed in range(4000)]
    draws = np.stack([row.latent.numpy() for row in around_picture(rows, code, 1.0) if row.latent is not None])
    deviation = np.exp(logvar / 2)
    assert (abs(draws.mean(0) - mean) < 4 * deviation / 4000**0.5).all()
    np.testing.assert_allclose(draws.std(0), deviation, rtol=0.06)
    centre = around_picture(rows[:1], code, 0.0)[0].latent
    assert centre is not None
    assert torch.equal(centre, mean_of(code))


def test_a_clean_latent_is_decoded_in_one_step(one_shot: Model, diffusion: Model) -> None:
    """Of a model that denoises too, whatever its network says, and without a clamp."""
    latent = torch.arange(4.0)
    assert decoded(one_shot, ROW, latent) == ROW._replace(latent=latent)
    guided = ROW._replace(plan=diffusion.plan("ddim", 9), guidance_scale=3.0, negative_label=2)
    row = decoded(diffusion, guided, 2 * X_START)
    assert (row.calls, row.inpaint is not None) == (1, True)
    step, noise = row.plan.table[0], torch.randn(1, 1, 8, 8)
    predicted = predict_x_start(lambda x, _t, _inputs: x, noise, step[:1], {}, None, row.inpaint, (-1.0, 1.0))
    final = update(noise, predicted, torch.zeros_like(noise), step[None, 1:], None)
    assert torch.equal(final[0], 2 * X_START)


def test_points_of_the_map(tmp_path: Path) -> None:
    write_autoencoder(tmp_path, "vae")
    model, shown = load_model(tmp_path / "vae", CPU), some_codes()
    expected = torch.from_numpy(shown.origin + 2 * shown.axes[0] - shown.axes[1])
    torch.testing.assert_close(at_point(model, [2.0, -1.0]), expected)


def test_frames_of_a_path(one_shot: Model) -> None:
    ends = [seed_latent(one_shot, seed) for seed in (1, 2)]
    latents = path_latents(ends, positions(2, 3), "linear")
    torch.testing.assert_close(latents, torch.stack([ends[0], (ends[0] + ends[1]) / 2, ends[1]]))
    assert legs(positions(3, 5), 3) == [(0, 1, 0.0), (0, 1, 0.5), (1, 2, 0.0), (1, 2, 0.5), (2, 0, 0.0)]
    assert legs(positions(2, 4, loop=True), 2) == [(0, 1, 0.0), (0, 1, 0.5), (1, 0, 0.0), (1, 0, 0.5)]


@pytest.mark.parametrize(
    ("before", "after", "share", "label", "negative", "scale"),
    [(2, 2, 0.3, 2, None, 5.0), (1, 2, 0.0, 1, None, 5.0), (1, 2, 0.3, 2, 1, 0.3)],
)
def test_a_blend_takes_the_place_of_guidance(
    before: int, after: int, share: float, label: int, negative: int | None, scale: float
) -> None:
    row = blended(ROW._replace(guidance_scale=5.0), before, after, share)
    assert (row.label, row.negative_label, row.guidance_scale) == (label, negative, scale)
