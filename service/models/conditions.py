"""What a prompt, its negative, control pictures and a LoRA are to a row: the inputs of models with prompts."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from service.engine.model import Model
from service.engine.rows import Adapter, Conditions, RowSpec, Size
from service.models.diffusers.networks import guidance_embedding, hint_names
from service.sampling.step import Inputs


class Control(NamedTuple):
    """A control picture (channel, height, width) in [0, 1]: for a ControlNet of 3 channels, a sketch of 1.

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
        controls: by the name of a control of the model.
        adapter: the LoRA.

    Raises:
        ValueError: as ``service.engine.inputs.check_conditions``.
    """
    conditioning = model.manifest.conditioning
    assert conditioning is not None
    guided = conditioning.guidance == "classifier-free" and guidance_scale > 1
    inputs = dict(prompt)
    windows: dict[str, tuple[int, int]] = {}
    if "time_ids" in model.inputs:
        inputs["time_ids"] = time_ids(row.size or (conditioning.sizes.height, conditioning.sizes.width))
    if conditioning.guidance == "embedded":
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
