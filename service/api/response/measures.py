"""What a JSON answer tells beside its pictures: how a path goes, and how well an encoding gives its pictures back."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from pydantic import BaseModel, Field, JsonValue

from service.api.order import Codes, Walk
from service.api.request.arrays import Floats
from service.images import Pixels


class Path(BaseModel):
    """How a path goes, an entry a frame."""

    t: list[float] = Field(description="Where the frame is: 0 the first point, 1 the second, and so on.")
    latent_norm: list[float]
    step_distance: list[float] = Field(description="Root mean square from the frame before, of grey levels 0 to 1.")
    endpoint_psnr: list[float | None] = Field(
        description="Decibels between the frame and the picture that was sent for its point; null where none was, or "
        "where they are equal."
    )


class Code(BaseModel):
    """An encoded picture; the images of the answer are the reconstructions."""

    index: int
    mean: JsonValue | None = Field(description="Of the encoder, (*latent_shape); null where there is none.")
    logvar: JsonValue | None = Field(description="Of the encoder, (*latent_shape); null where there is none.")
    latent: JsonValue | None = Field(
        description="The noise that DDIM makes the picture from again, (*latent_shape); null of an encoder."
    )
    mse: float = Field(description="Mean square error of the reconstruction, of grey levels 0 to 1.")
    psnr: float | None = Field(description="The same in decibels; null where there is no error.")


def path_of(walk: Walk, pictures: Sequence[Pixels]) -> Path:
    """How the path goes on which ``pictures`` were made."""
    steps = [math.sqrt(mse(*pair)) for pair in pairwise(pictures)]
    shown = [None if sent is None else psnr(mse(sent, made)) for sent, made in zip(walk.sent, pictures, strict=True)]
    return Path(t=[*walk.t], latent_norm=[*walk.latent_norm], step_distance=[0.0, *steps], endpoint_psnr=shown)


def codes_of(codes: Codes, pictures: Sequence[Pixels]) -> list[Code]:
    """The codes, with how well ``pictures`` were made of them again."""
    return [
        _code(index, latents, codes.variational, mse(sent, made))
        for index, (latents, sent, made) in enumerate(zip(codes.latents, codes.sent, pictures, strict=True))
    ]


def mse(one: Pixels, other: Pixels) -> float:
    """Mean square difference of two pictures, grey levels from 0 to 1."""
    return float(np.mean((one.astype(np.float64) - other) ** 2)) / 255**2


def psnr(error: float) -> float | None:
    """A mean square error in decibels below the square of the whole range; None for no error."""
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
