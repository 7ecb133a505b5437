"""One step of a batch, for serving and for evaluation in training: denoise, guide, clamp, inpaint, update.

Every row has its own t, inputs, guidance, mask and coefficients, so rows of different plans share a forward pass.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from service.sampling.diffusers_schedule import PredictionType

Inputs = Mapping[str, Tensor]
"""What the rows of a batch are conditioned on, (batch, ...) each: a class label (int64), or numbers such as a prompt's
embedding."""

Denoise = Callable[[Tensor, Tensor, Inputs], Tensor]
"""(x (batch, *latent), t (batch,), inputs) -> the clean latent, shaped like x; or a prediction of another type, which
`x_start_from` converts. t is in (0, 1], or a timestep of diffusers."""


class Guidance(NamedTuple):
    """The guided rows of a batch: int64 indices and scales, (guided,) each, and the inputs to lead away from.

    ``negative`` has the inputs that differ from the rows' own, (guided, ...) each: for a class, the label for "no
    class" or another class. With another class, a scale s in [0, 1] blends two classes: (1 - s) of the negative one's
    prediction and s of that of the row's own class.
    """

    rows: Tensor
    scale: Tensor
    negative: Inputs


class Inpaint(NamedTuple):
    """The known part of a clean latent, (*latent) each, or (batch, *latent) for a batch.

    ``mask`` is 1 where the latent is generated, 0 where ``known`` is kept exactly; values in between blend both.
    ``noise``, for `keep_known` only, is the noise that the row starts from.
    """

    mask: Tensor
    known: Tensor
    noise: Tensor | None = None


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance of predictions (batch, *latent) by `scale` (batch,).

    0 is the unconditional prediction, 1 the conditional one; above 1 exaggerates the class
    (Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", with w = scale - 1).
    """
    return unconditional + _per_row(scale, conditional) * (conditional - unconditional)


def predict(denoise: Denoise, x: Tensor, t: Tensor, inputs: Inputs, guidance: Guidance | None) -> Tensor:
    """The network's prediction by one forward pass, guided, (batch, *latent), in the precision of `x`.

    Guided rows are computed twice, the second time with their negative inputs. The arguments are as in
    `predict_x_start`.
    """
    if guidance is None:
        return denoise(x, t, inputs).to(x.dtype)
    rows, negative = guidance.rows, guidance.negative
    both = {name: torch.cat([own, negative[name] if name in negative else own[rows]]) for name, own in inputs.items()}
    # The solver keeps its precision when the network computes in half precision.
    predictions = denoise(torch.cat([x, x[rows]]), torch.cat([t, t[rows]]), both).to(x.dtype)
    conditional, unconditional = predictions[: len(x)], predictions[len(x) :]
    return conditional.index_copy(0, rows, guide(conditional[rows], unconditional, guidance.scale))


def predict_x_start(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    inputs: Inputs,
    guidance: Guidance | None,
    inpaint: Inpaint | None,
    x0_range: tuple[float, float] | None,
) -> Tensor:
    """The clean latent predicted by one forward pass, guided, clamped and inpainted, (batch, *latent).

    Args:
        denoise: the network, which predicts the clean latent; otherwise as in `predict`.
        x: noisy latents, (batch, *latent).
        t: noise levels, (batch,), each in (0, 1].
        inputs: what the rows are conditioned on.
        guidance: of the rows whose scale is not 1; None if there is no such row.
        inpaint: the mask and the known latent of every row; None if no row has one.
        x0_range: bounds of a clean latent; None disables the clamp.
    """
    x_start = predict(denoise, x, t, inputs, guidance)
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


def x_start_from(
    prediction: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: PredictionType
) -> Tensor:
    """The clean latent of a network that predicts the noise ("epsilon"), v or the clean latent ("sample").

    v is alpha * noise - sigma * x_start (Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion
    Models"). It is linear in the prediction, so a guided prediction gives the guided clean latent.

    Args:
        prediction: the network's output, (batch, *latent).
        x: noisy latents, (batch, *latent); the result has their precision.
        alpha: the scale of the clean latent at each row's step, (batch,); above 0 for "epsilon".
        sigma: the scale of the noise, (batch,).
        prediction_type: what the network predicts.
    """
    prediction = prediction.to(x.dtype)
    if prediction_type == "sample":
        return prediction
    alpha, sigma = _per_row(alpha.to(x.dtype), x), _per_row(sigma.to(x.dtype), x)
    if prediction_type == "epsilon":
        return (x - sigma * prediction) / alpha
    return alpha * x - sigma * prediction


def clip_x_start(x: Tensor, x_start: Tensor, bound: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """x and x_start, (batch, *latent) each, for `update` after x_start is clamped to [-bound, bound].

    `bound` and `shift`, (batch,) each, are columns of `Plan.levels`. A shift of alpha keeps the noise that was
    predicted before the clamp; 0 keeps x. Infinity becomes NaN instead of a bound, as in `predict_x_start`.
    """
    limit = _per_row(bound.to(x.dtype), x)
    clipped = torch.clamp(x_start, -limit, limit) + 0 * x_start
    return x + _per_row(shift.to(x.dtype), x) * (clipped - x_start), clipped


def keep_known(x: Tensor, inpaint: Inpaint, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x after a step, with the known part replaced by the known latent at that level of noise, (batch, *latent).

    So inpaint the pipelines of diffusers whose UNet is not given the mask. They use one noise in all steps, the one
    that the row started with. `alpha` and `sigma`, (batch,) each, are of the level where the next step begins, and 1
    and 0 after the last one: the next row of `Plan.levels`. Rows without a mask have a mask of 1.
    """
    known = _per_row(alpha.to(x.dtype), x) * inpaint.known + _per_row(sigma.to(x.dtype), x) * noise
    return inpaint.mask * x + (1 - inpaint.mask) * known


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
