"""Measurements in a JSON answer: of the frames of an interpolation, and of the reconstructions of an encoding."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from pydantic import BaseModel, Field, JsonValue

from service.api.order import Codes, Walk
from service.api.request.arrays import Floats
from service.images import Pixels


class Path(BaseModel):
    """Measurements of an interpolation, one entry per frame."""

    t: list[float] = Field(description="Position of the frame: 0 is the first point, 1 the second, and so on.")
    latent_norm: list[float]
    step_distance: list[float] = Field(
        description="Root mean square difference from the previous frame, grey levels 0 to 1."
    )
    endpoint_psnr: list[float | None] = Field(
        description="PSNR in decibels between the frame and the picture uploaded for its point; null without one, or "
        "where they are equal."
    )


class Code(BaseModel):
    """One encoded picture; the images of the answer are the reconstructions."""

    index: int
    mean: JsonValue | None = Field(description="From the encoder, (*latent_shape); null without one.")
    logvar: JsonValue | None = Field(description="From the encoder, (*latent_shape); null without one.")
    latent: JsonValue | None = Field(
        description="The noise from which DDIM reconstructs the picture, (*latent_shape); null for an encoder."
    )
    mse: float = Field(description="Mean square error of the reconstruction, grey levels 0 to 1.")
    psnr: float | None = Field(description="PSNR of the reconstruction in decibels; null without any error.")


def path_of(walk: Walk, pictures: Sequence[Pixels]) -> Path:
    """The measurements of ``pictures``, the frames of ``walk``."""
    steps = [math.sqrt(mse(*pair)) for pair in pairwise(pictures)]
    shown = [None if sent is None else psnr(mse(sent, made)) for sent, made in zip(walk.sent, pictures, strict=True)]
    return Path(t=[*walk.t], latent_norm=[*walk.latent_norm], step_distance=[0.0, *steps], endpoint_psnr=shown)


def codes_of(codes: Codes, pictures: Sequence[Pixels]) -> list[Code]:
    """``codes`` with the errors of ``pictures``, their reconstructions."""
    return [
        _code(index, latents, codes.variational, mse(sent, made))
        for index, (latents, sent, made) in enumerate(zip(codes.latents, codes.sent, pictures, strict=True))
    ]


def mse(one: Pixels, other: Pixels) -> float:
    """Mean square difference of two pictures, grey levels from 0 to 1."""
    return float(np.mean((one.astype(np.float64) - other) ** 2)) / 255**2


def psnr(error: float) -> float | None:
    """The peak signal-to-noise ratio of a mean square error in decibels; None for no error."""
    return -10 * math.log10(error) if error else None


def _code(index: int, latents: Floats, variational: bool, error: float) -> Code:
    mean, logvar = latents if variational else (None, None)
    return Code(
        index=index,
        mean=None if mean is None else mean.tolist(),
        logvar=None if logvar is None else logvar.tolist(),
        latent=None if variational else latents.tolist(),
        mse=error,
        psnr=psnr(error),
    )
