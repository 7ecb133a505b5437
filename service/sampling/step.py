"""One step of a batch, the same for training's evaluation and for serving: denoise, guide, clamp, update.

Every row has its own t, label, guidance scale and coefficients, so rows of different plans share a call.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x (batch, *latent), t (batch,) in (0, 1], label (batch,) int64) -> the clean latent, shaped like x."""


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance of predictions (batch, *latent) by `scale` (batch,).

    0 is the unconditional prediction, 1 the conditional one, above 1 exaggerates the class
    (Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", with w = scale - 1).
    """
    return unconditional + _per_row(scale, conditional) * (conditional - unconditional)


def predict_x_start(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    label: Tensor,
    null_label: int,
    guidance_scale: Tensor,
    guided: Tensor | None,
    x0_range: tuple[float, float] | None,
) -> Tensor:
    """The clean latent that one network call predicts, guided and clamped, (batch, *latent).

    Args:
        denoise: the network; guided rows come to it twice, the second time with `null_label`.
        x: noisy latents, (batch, *latent).
        t: noise levels, (batch,), each in (0, 1].
        label: classes, (batch,) int64.
        null_label: the label that means "no class".
        guidance_scale: (batch,); only that of guided rows is read.
        guided: indices of the rows whose scale is not 1, (guided,) int64; None or empty, no row.
        x0_range: bounds of a clean latent; None, no clamp.
    """
    if guided is None or len(guided) == 0:
        x_start = denoise(x, t, label).to(x.dtype)
    else:
        x_start = _denoise_guided(denoise, x, t, label, null_label, guidance_scale, guided)
    return x_start if x0_range is None else x_start.clamp(*x0_range)


def update(x: Tensor, x_start: Tensor, x_start_prev: Tensor, coefficients: Tensor, noise: Tensor | None) -> Tensor:
    """x_next = a*x + b*x_start + c*x_start_prev + d*noise, all (batch, *latent), in the precision of `x`.

    Args:
        x: noisy latents.
        x_start: this step's predictions.
        x_start_prev: the previous step's. It must be finite also where c is 0 (0 * NaN is NaN): clear it
            before a row's first step.
        coefficients: a, b, c, d of each row, (batch, 4).
        noise: standard normal, finite also where d is 0; None where no row adds noise.
    """
    a, b, c, d = (_per_row(column, x) for column in coefficients.to(x.dtype).unbind(1))
    x_next = a * x + b * x_start + c * x_start_prev
    return x_next if noise is None else x_next + d * noise


def _denoise_guided(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    label: Tensor,
    null_label: int,
    guidance_scale: Tensor,
    guided: Tensor,
) -> Tensor:
    predictions = denoise(
        torch.cat([x, x[guided]]),
        torch.cat([t, t[guided]]),
        torch.cat([label, torch.full_like(guided, null_label)]),
    ).to(x.dtype)  # a half-precision network must not pull the solver's arithmetic down with it
    x_start, unconditional = predictions[: len(x)], predictions[len(x) :]
    return x_start.index_copy(0, guided, guide(x_start[guided], unconditional, guidance_scale[guided]))


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
