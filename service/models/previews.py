"""Previews without the decoder, for models whose decoder takes as long as several steps.

The channels of an autoencoder's latents are nearly linear in the colours of the picture that they stand for. A linear
map from one pixel of a latent to one colour, fitted once to the model's own decoder, shows colours and shapes without
detail, in microseconds instead of the time of several steps, which all rows of the tick would wait for.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from service.engine.model import Decode, Encode, Model
from service.models.warmup import RunExclusive
from service.sampling.step import Inputs

log = logging.getLogger(__name__)

#: The pictures of the fit: how many, the side of their latents, and how many patches are side by side in them.
PICTURES, SIDE, PATCHES = 8, 8, (1, 2, 2, 4)
#: Grey levels from -1 to 1.
_LEVELS = 127.5


def with_previews(model: Model, run_exclusive: RunExclusive) -> Model:
    """``model`` with the function ``preview`` if it decodes apart; else ``model``, whose previews its decoder makes.

    Raises ValueError when encoder or decoder give numbers that are not finite, and whatever they raise.
    """
    if not model.decodes_apart or model.encode is None:
        return model
    factor = model.manifest.image_shape[1] // model.manifest.latent_shape[1]
    pictures = patches(SIDE * factor).to(model.device)
    latents = run_exclusive(partial(_encoded, model.encode, pictures))
    decoded = run_exclusive(partial(_decoded, model.decode, latents))
    preview, error = fit(latents, functional.avg_pool2d(decoded, factor), factor)
    log.info("previews fitted", extra={"model": model.name, "error_levels": round(_LEVELS * error, 1)})
    return replace(model, preview=preview)


def patches(side: int) -> Tensor:
    """Random pictures (``PICTURES``, 3, side, side) in [-1, 1]: plain ones, and patches of plain colours.

    Their edges matter: fitted to smooth pictures, a map is less exact on others than fitted to these.
    """
    generator = torch.Generator().manual_seed(0)
    counts = [PATCHES[number % len(PATCHES)] for number in range(PICTURES)]
    colours = [torch.rand(1, 3, count, count, generator=generator) * 2 - 1 for count in counts]
    return torch.cat([functional.interpolate(each, (side, side)) for each in colours])


def fit(latents: Tensor, colours: Tensor, factor: int) -> tuple[Decode, float]:
    """The preview function that fits best, and its error: the root of the mean square.

    Args:
        latents: (batch, channel, height, width).
        colours: what they stand for, (batch, colour, height, width) in [-1, 1].
        factor: the side of a picture as a multiple of its latent's.

    Raises:
        ValueError: some numbers are not finite.
    """
    known, wanted = (each.movedim(1, -1).flatten(0, -2).double().cpu() for each in (latents, colours))
    if not (known.isfinite().all() and wanted.isfinite().all()):
        raise ValueError("encoding and decoding patches of colour gave numbers that are not finite")
    known = torch.cat([known, torch.ones(len(known), 1, dtype=known.dtype)], dim=1)
    weights = torch.linalg.lstsq(known, wanted, driver="gelsd").solution  # the driver for any rank
    error = (known @ weights - wanted).square().mean().sqrt().item()
    kernel, bias = weights[:-1].T[:, :, None, None].float(), weights[-1].float()
    return partial(_preview, kernel.to(latents.device), bias.to(latents.device), factor), error


def _preview(kernel: Tensor, bias: Tensor, factor: int, latent: Tensor, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """As ``Model.decode``: pictures (batch, colour, height, width) in [-1, 1] of the full size."""
    colours = functional.conv2d(latent, kernel, bias).clamp(-1.0, 1.0)
    return functional.interpolate(colours, scale_factor=float(factor), mode="bilinear")


@torch.inference_mode()
def _encoded(encode: Encode, pictures: Tensor) -> Tensor:
    torch.set_num_threads(1)  # as the engine's threads
    return encode(pictures, {})[0]


@torch.inference_mode()
def _decoded(decode: Callable[..., Tensor], latents: Tensor) -> Tensor:
    return decode(latents, {})
