"""The rows of requests to a diffusers folder: what its pipelines' calls do between the encoders and the first step.

Each picture has one generator. Its draws are, in this order: for text to image the noise; for image to image the
posterior of the picture and the noise; for inpainting the posterior of the picture (not with a UNet that is given the
mask, at strength 1), the noise, and the posterior of the masked picture.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from service.contract.pipeline import Pipeline
from service.engine.initial_latents import tensor_of
from service.engine.model import Model
from service.engine.results import Latent
from service.engine.rows import Adapter, Conditions, RowSpec, Size
from service.models.diffusers.networks import guidance_embedding, hint_names
from service.sampling.noise import RowNoise
from service.sampling.step import Inpaint, Inputs


class Control(NamedTuple):
    """A control picture (3, height, width) in [0, 1] for a ControlNet.

    It acts by ``scale``, from the share ``start`` of the steps to the share ``end``.
    """

    image: Tensor
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


def conditioned(
    model: Model,
    row: RowSpec,
    guidance_scale: float,
    prompt: Inputs,
    negative: Inputs,
    *,
    controls: Mapping[str, Control] | None = None,
    adapter: Adapter | None = None,
) -> RowSpec:
    """``row`` of a model with prompts, conditioned on them; ``row.plan`` and ``row.size`` must be set.

    Args:
        model: the model of the deployment.
        row: its guidance scale is replaced.
        guidance_scale: as in diffusers: at most 1 is no guidance.
        prompt: ``service.engine.parts.prompt_inputs`` of the prompt.
        negative: the same of the negative prompt; without one ``no_prompt``, or that of "".
        controls: by the name of a ControlNet of the model.
        adapter: the LoRA.

    Raises:
        ValueError: as ``service.engine.inputs.check_conditions``.
    """
    pipeline = model.manifest.conditioning
    assert pipeline is not None
    guided = pipeline.guidance == "classifier-free" and guidance_scale > 1
    inputs = dict(prompt)
    windows: dict[str, tuple[int, int]] = {}
    if "time_ids" in model.inputs:
        inputs["time_ids"] = time_ids(row.size or (pipeline.sizes.height, pipeline.sizes.width))
    if pipeline.guidance == "embedded":
        inputs["timestep_cond"] = guidance_embedding(guidance_scale, model.inputs["timestep_cond"].shape[0])
    for name, control in (controls or {}).items():
        hint, scale = hint_names(name)
        inputs |= {hint: control.image, scale: torch.tensor(float(control.scale))}
        windows |= dict.fromkeys((hint, scale), window(control, row.plan.steps))
    conditions = Conditions(inputs, negative if guided else {}, windows, adapter)
    return row._replace(guidance_scale=guidance_scale if guided else 1.0, conditions=conditions)


def window(control: Control, steps: int) -> tuple[int, int]:
    """The steps in which a control picture acts: the first, and one after the last."""
    acting = [step for step in range(steps) if step / steps >= control.start and (step + 1) / steps <= control.end]
    return (acting[0], acting[-1] + 1) if acting else (0, 0)


def time_ids(size: Size) -> Tensor:
    """SDXL's sizes of an uncropped picture, (6,): original height and width, offsets, target height and width."""
    height, width = size
    return torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)


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
