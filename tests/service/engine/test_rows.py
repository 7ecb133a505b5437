"""What rows begin with, made from pictures and latents before the engine sees them."""

import torch

from service.engine.model import Model
from service.engine.rows import RowSpec, encode_row, inversion_row, started_from, truncated, varied
from service.sampling.noise import RowNoise
from service.sampling.solvers import EMPTY_PLAN

SHAPE = (1, 8, 8)


def test_a_row_starts_between_a_picture_and_the_noise_of_its_seed(diffusion: Model) -> None:
    plan = diffusion.plan("ddim", 10, strength=0.4)
    x_start = torch.linspace(-1, 1, 64).reshape(SHAPE)
    row = started_from(RowSpec(7, 1, 1.0, plan), x_start)
    assert row.latent is not None
    torch.testing.assert_close(row.latent, plan.alpha * x_start + plan.sigma * RowNoise(7).draw(SHAPE))
    assert row._replace(latent=None) == RowSpec(7, 1, 1.0, plan)
    assert row.calls == 4


def test_truncation_scales_the_start() -> None:
    row = truncated(RowSpec(3, 0, 1.0, EMPTY_PLAN), (4,), 0.5)
    assert row.latent is not None
    assert torch.equal(row.latent, 0.5 * RowNoise(3).draw((4,)))


def test_variations_are_draws_of_the_posterior() -> None:
    mean, logvar = torch.tensor([1.0, -2.0, 0.0, 3.0]), torch.tensor([0.0, -1.0, 1.0, -20.0])
    rows = [varied(RowSpec(seed, 0, 1.0, EMPTY_PLAN), mean, logvar) for seed in range(4000)]
    draws = torch.stack([row.latent for row in rows if row.latent is not None])
    deviation = (logvar / 2).exp()
    assert ((draws.mean(0) - mean).abs() < 4 * deviation / 4000**0.5).all()
    torch.testing.assert_close(draws.std(0), deviation, rtol=0.06, atol=0)
    centre = varied(RowSpec(1, 0, 1.0, EMPTY_PLAN), mean, logvar, spread=0.0).latent
    assert centre is not None
    assert torch.equal(centre, mean)


def test_an_inversion_starts_at_the_picture_and_ends_as_a_latent(diffusion: Model) -> None:
    x_start = torch.linspace(-1, 1, 64).reshape(SHAPE)
    row = inversion_row(x_start, 2, diffusion.inversion_plan(5))
    assert row.as_latent
    assert row.latent is not None
    torch.testing.assert_close(row.latent, x_start, rtol=0, atol=1e-4)  # alpha of the lowest timestep is nearly 1
    assert row.calls == 5


def test_an_encoded_row_holds_the_picture() -> None:
    image = torch.linspace(-1, 1, 64).reshape(SHAPE)
    row = encode_row(image, 2)
    assert row.latent is image
    assert (row.label, row.calls) == (2, 1)
