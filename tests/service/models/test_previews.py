from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from service.engine.model import Model
from service.models.previews import SIDE, fit, patches, with_previews
from service.models.warmup import run_directly
from service.sampling.step import Inputs

FACTOR = 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decode(matrix: Tensor, latent: Tensor, inputs: Inputs) -> Tensor:
    """Each pixel of a latent as FACTOR x FACTOR pixels of one colour."""
    return functional.interpolate(torch.einsum("oc,bchw->bohw", matrix, latent), scale_factor=float(FACTOR))


def encode(matrix: Tensor, image: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The inverse: the latent of the mean of each block of pixels."""
    colours = functional.avg_pool2d(image, FACTOR)
    mean = torch.einsum("co,bohw->bchw", torch.linalg.pinv(matrix), colours)
    return mean, torch.zeros_like(mean)


def of_matrix(model: Model, matrix: Tensor) -> Model:
    """A model of 4 latent channels that encodes and decodes by ``matrix`` (3, 4)."""
    shapes = {"image_shape": (3, 16, 16), "latent_shape": (4, 8, 8)}
    return replace(
        model,
        manifest=model.manifest.model_copy(update=shapes),
        decode=partial(decode, matrix),
        encode=partial(encode, matrix),
        decodes_apart=True,
    )


def test_a_linear_decoder_is_matched_but_for_smooth_edges(diffusion: Model) -> None:
    matrix = random(3, 4)
    model = with_previews(of_matrix(diffusion, matrix), run_directly)
    assert model.preview is not None
    latent = encode(matrix, patches(16), {})[0]
    shown, exact = model.preview(latent, {}), model.decode(latent, {})
    assert shown.shape == exact.shape == (len(latent), 3, 16, 16)
    middle = functional.avg_pool2d(exact, FACTOR)
    smooth = functional.interpolate(middle, scale_factor=float(FACTOR), mode="bilinear")
    torch.testing.assert_close(shown, smooth, atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), channels=st.integers(1, 16), noise=st.floats(0, 0.5))
def test_the_error_is_what_is_not_linear(seed: int, channels: int, noise: float) -> None:
    latents = random(4, channels, SIDE, SIDE, seed=seed)
    linear = torch.einsum("oc,bchw->bohw", random(3, channels, seed=seed + 1), latents) + 0.25
    _, error = fit(latents, linear + noise * random(4, 3, SIDE, SIDE, seed=seed + 2), FACTOR)
    assert error <= noise * 1.2 + 1e-5
    assert error >= noise * 0.8 - 1e-5


def test_latents_that_do_not_vary_have_a_preview_too() -> None:
    preview, error = fit(torch.ones(1, 4, SIDE, SIDE), torch.full((1, 3, SIDE, SIDE), 0.5), FACTOR)
    assert error == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(preview(torch.ones(2, 4, 3, 5), {}), torch.full((2, 3, 6, 10), 0.5))


def test_a_preview_has_no_numbers_outside_of_the_range() -> None:
    latents = random(2, 4, SIDE, SIDE)
    preview, _ = fit(latents, latents[:, :3] / 4, FACTOR)
    assert preview(100 * latents, {}).abs().max() <= 1


def test_a_model_that_decodes_in_its_last_step_is_left_as_it_is(diffusion: Model) -> None:
    assert with_previews(diffusion, run_directly) is diffusion


def test_numbers_that_are_not_finite_are_refused(diffusion: Model) -> None:
    model = of_matrix(diffusion, random(3, 4))
    with pytest.raises(ValueError, match="not finite"):
        with_previews(replace(model, decode=lambda *batch: torch.nan * model.decode(*batch)), run_directly)


def test_the_pictures_of_the_fit_are_plain_or_have_edges() -> None:
    pictures = patches(16)
    assert pictures.abs().max() <= 1
    edges = pictures.diff(dim=3).abs().amax(dim=(1, 2, 3))
    assert edges.min() == 0  # a plain colour
    assert edges.max() > 0.5  # a patch beside another
