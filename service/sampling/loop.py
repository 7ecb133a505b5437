"""Sampling a batch with one plan, for evaluation, by the same functions as serving."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.sampling.noise import RowNoise
from service.sampling.solvers import Plan
from service.sampling.step import Denoise, Guidance, Inpaint, Inputs, predict_x_start, update


@torch.inference_mode()
def sample(
    denoise: Denoise,
    latent: Tensor,
    noises: Sequence[RowNoise],
    inputs: Inputs,
    plan: Plan,
    *,
    negative: Inputs | None = None,
    guidance_scale: float = 1.0,
    x0_range: tuple[float, float] | None,
    inpaint: Inpaint | None = None,
) -> Tensor:
    """Run `latent` through the plan; returns a clean latent for `decode`, (batch, *latent).

    Args:
        denoise: the network.
        latent: the start, (batch, *latent): the first draw of each row's noise.
        noises: one per row; each step that adds noise draws once from each.
        inputs: what the rows are conditioned on, (batch, ...) each, on the latent's device.
        plan: the steps of every row; an empty plan returns `latent`.
        negative: the inputs that guidance leads away from, where they differ from `inputs`.
        guidance_scale: for every row; 1 disables guidance and its second prediction.
        x0_range: bounds of a clean latent; None disables the clamp.
        inpaint: the known part of the result, (batch, *latent); None means nothing is known.
    """
    batch, guidance = len(latent), None
    if guidance_scale != 1:
        rows = torch.arange(batch, device=latent.device)
        guidance = Guidance(rows, latent.new_full((batch,), guidance_scale), negative or {})
    x, x_start_prev = latent, torch.zeros_like(latent)
    adds_noise = (plan.table[:, 4] != 0).tolist()  # on the CPU: reading from a GPU waits for it
    for row, noisy in zip(plan.table.to(latent), adds_noise, strict=True):
        t, coefficients = row[0].expand(batch), row[1:].expand(batch, 4)
        x_start = predict_x_start(denoise, x, t, inputs, guidance, inpaint, x0_range)
        noise = _draw(noises, latent) if noisy else None
        x, x_start_prev = update(x, x_start, x_start_prev, coefficients, noise), x_start
    return x


def _draw(noises: Sequence[RowNoise], latent: Tensor) -> Tensor:
    return torch.stack([noise.draw(latent.shape[1:]) for noise in noises]).to(latent)
