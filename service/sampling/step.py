"""One step of a batch, for serving and for evaluation in training: denoise, guide, clamp, inpaint, update.

Every row has its own t, label, guidance, mask and coefficients, so rows of different plans share a forward pass.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x (batch, *latent), t (batch,) in (0, 1], label (batch,) int64) -> the clean latent, shaped like x."""


class Guidance(NamedTuple):
    """The guided rows of a batch, (guided,) each: int64 indices, scales, and labels to lead away from.

    A negative label is the label for "no class", or a class. With a class, a scale s in [0, 1] blends two classes:
    (1 - s) of the negative label's prediction and s of that of the row's own class.
    """

    rows: Tensor
    scale: Tensor
    negative_label: Tensor


class Inpaint(NamedTuple):
    """The known part of a clean latent, (*latent) each, or (batch, *latent) for a batch.

    ``mask`` is 1 where the latent is generated, 0 where ``known`` is kept exactly; values in between blend both.
    """

    mask: Tensor
    known: Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance of predictions (batch, *latent) by `scale` (batch,).

    0 is the unconditional prediction, 1 the conditional one; above 1 exaggerates the class
    (Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", with w = scale - 1).
    """
    return unconditional + _per_row(scale, conditional) * (conditional - unconditional)


def predict_x_start(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    label: Tensor,
    guidance: Guidance | None,
    inpaint: Inpaint | None,
    x0_range: tuple[float, float] | None,
) -> Tensor:
    """The clean latent predicted by one forward pass, guided, clamped and inpainted, (batch, *latent).

    Args:
        denoise: the network; guided rows are computed twice, the second time with their negative label.
        x: noisy latents, (batch, *latent).
        t: noise levels, (batch,), each in (0, 1].
        label: classes, (batch,) int64.
        guidance: of the rows whose scale is not 1; None if there is no such row.
        inpaint: the mask and the known latent of every row; None if no row has one.
        x0_range: bounds of a clean latent; None disables the clamp.
    """
    x_start = denoise(x, t, label).to(x.dtype) if guidance is None else _denoise_guided(denoise, x, t, label, guidance)
    if x0_range is not None:  # infinity becomes NaN instead of a bound, so that it is detected in the result
        x_start = x_start.clamp(*x0_range) + 0 * x_start
    return x_start if inpaint is None else inpaint.mask * x_start + (1 - inpaint.mask) * inpaint.known


def update(x: Tensor, x_start: Tensor, x_start_prev: Tensor, coefficients: Tensor, noise: Tensor | None) -> Tensor:
    """x_next = a*x + b*x_start + c*x_start_prev + d*noise, all (batch, *latent), in the precision of `x`.

    Args:
        x: noisy latents.
        x_start: this step's predictions.
        x_start_prev: the previous step's predictions, zero before a row's first step. Finite also where c is 0,
            because 0 * NaN is NaN.
        coefficients: a, b, c, d of each row, (batch, 4).
        noise: standard normal, finite also where d is 0; None if no row adds noise.
    """
    a, b, c, d = (_per_row(column, x) for column in coefficients.to(x.dtype).unbind(1))
    x_next = a * x + b * x_start + c * x_start_prev
    return x_next if noise is None else x_next + d * noise


def _denoise_guided(denoise: Denoise, x: Tensor, t: Tensor, label: Tensor, guidance: Guidance) -> Tensor:
    rows = guidance.rows
    predictions = denoise(
        torch.cat([x, x[rows]]),
        torch.cat([t, t[rows]]),
        torch.cat([label, guidance.negative_label]),
    ).to(x.dtype)  # keep the solver's precision when the network computes in half precision
    x_start, unconditional = predictions[: len(x)], predictions[len(x) :]
    return x_start.index_copy(0, rows, guide(x_start[rows], unconditional, guidance.scale))


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
