"""A whole plan for a batch that shares it: what evaluation runs, out of the functions that serving runs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.sampling.noise import RowNoise
from service.sampling.solvers import Plan
from service.sampling.step import Denoise, Guidance, Inpaint, predict_x_start, update


@torch.inference_mode()
def sample(
    denoise: Denoise,
    latent: Tensor,
    noises: Sequence[RowNoise],
    label: Tensor,
    plan: Plan,
    *,
    null_label: int,
    guidance_scale: float = 1.0,
    x0_range: tuple[float, float] | None,
    inpaint: Inpaint | None = None,
) -> Tensor:
    """Walk `latent` down the plan; the result is a clean latent for `decode`, (batch, *latent).

    Args:
        denoise: the network.
        latent: where to start, (batch, *latent): each row's first draw of its noise.
        noises: one a row; each step that adds noise draws once from every one of them.
        label: classes, (batch,) int64, on the latent's device.
        plan: the steps of every row; an empty one returns `latent`.
        null_label: the label that guidance leads away from: the one that means "no class".
        guidance_scale: of every row; 1 leaves guidance and its second prediction out.
        x0_range: bounds of a clean latent; None, no clamp.
        inpaint: what is known of the result, (batch, *latent); None, nothing.
    """
    batch, guidance = len(latent), None
    if guidance_scale != 1:
        rows = torch.arange(batch, device=latent.device)
        guidance = Guidance(rows, latent.new_full((batch,), guidance_scale), torch.full_like(rows, null_label))
    x, x_start_prev = latent, torch.zeros_like(latent)
    adds_noise = (plan.table[:, 4] != 0).tolist()  # asked on the CPU: asking a GPU would wait for it every step
    for row, noisy in zip(plan.table.to(latent), adds_noise, strict=True):
        t, coefficients = row[0].expand(batch), row[1:].expand(batch, 4)
        x_start = predict_x_start(denoise, x, t, label, guidance, inpaint, x0_range)
        noise = _draw(noises, latent) if noisy else None
        x, x_start_prev = update(x, x_start, x_start_prev, coefficients, noise), x_start
    return x


def _draw(noises: Sequence[RowNoise], latent: Tensor) -> Tensor:
    return torch.stack([noise.draw(latent.shape[1:]) for noise in noises]).to(latent)
