"""The rows of requests to a diffusers folder: what its pipelines' calls do between the encoders and the first step.

Each picture has one generator. Its draws are, in this order: for text to image the noise; for image to image the
posterior of the picture and the noise; for inpainting the posterior of the picture (not with a UNet that is given the
mask, at strength 1), the noise, and the posterior of the masked picture.
"""

import math

import torch
from torch import Tensor

from service.contract.pipeline import Pipeline
from service.engine.initial_latents import tensor_of
from service.engine.model import Model
from service.engine.results import Latent
from service.engine.rows import RowSpec, Size
from service.sampling.noise import RowNoise
from service.sampling.step import Inpaint


def from_code(row: RowSpec, code: Latent) -> RowSpec:
    """``row`` that starts from a picture: image to image. ``code`` is the encoder's result for it, (2, *latent)."""
    noise = RowNoise(row.seed)
    x_start = _sample(code, noise)
    return row._replace(latent=row.plan.start(x_start, noise.draw(x_start.shape)), draws=2)


def painted_in(model: Model, row: RowSpec, code: Latent, hidden_code: Latent, mask: Tensor, strength: float) -> RowSpec:
    """``row``, already ``conditioned``, that paints a picture where ``mask`` is 1.

    Args:
        model: the model of the deployment.
        row: the row.
        code: the encoder's result for the picture, (2, *latent).
        hidden_code: that for the picture with its masked part hidden, see ``hidden``.
        mask: (1, height, width), 0 or 1.
        strength: in (0, 1], that of the row's plan.
    """
    pipeline, noise = pipeline_of(model), RowNoise(row.seed)
    small = mask[:, :: pipeline.factor, :: pipeline.factor]
    x_start = None if pipeline.paints_in and strength == 1 else _sample(code, noise)
    drawn = noise.draw(code.shape[1:])
    start = row.plan.start_from_noise(drawn) if x_start is None or strength == 1 else row.plan.start(x_start, drawn)
    masked = _sample(hidden_code, noise)
    row = row._replace(latent=start, draws=2 if x_start is None else 3)
    if not pipeline.paints_in:
        assert x_start is not None
        return row._replace(inpaint=Inpaint(small, x_start, drawn))
    assert row.conditions is not None
    inputs = {**row.conditions.inputs, "mask": small, "masked_latent": masked}
    return row._replace(conditions=row.conditions._replace(inputs=inputs))


def hidden(image: Tensor, mask: Tensor) -> Tensor:
    """``image`` (3, height, width) in [-1, 1] with grey where ``mask`` (1, height, width) is at least 0.5."""
    return torch.where(mask < 0.5, image, torch.zeros(()))


def pixels(model: Model, size: Size | None) -> float:
    """``Part.pixels`` of pictures of ``size``: the work of a row as a multiple of one of the model's own size."""
    sizes = pipeline_of(model).sizes
    return 1.0 if size is None else math.prod(size) / (sizes.height * sizes.width)


def pipeline_of(model: Model) -> Pipeline:
    """The pipeline of the model's folder."""
    assert model.manifest.pipeline is not None
    return model.manifest.pipeline


def _sample(code: Latent, noise: RowNoise) -> Tensor:
    """A draw of the posterior of a picture with this ``code``, (*latent)."""
    mean, logvar = tensor_of(code).unbind()
    return mean + (logvar / 2).exp() * noise.draw(mean.shape)
