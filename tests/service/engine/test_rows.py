"""Rows of pictures and of latents."""

import torch

from service.engine.model import Model
from service.engine.rows import encode_row, inversion_row

SHAPE = (1, 8, 8)


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
