"""The precision of a model's denoiser: GENSERVE_PRECISION."""

from dataclasses import replace
from typing import Literal

import torch

from service.engine.model import Model
from service.sampling.precision import computes_bfloat16, in_bfloat16

Precision = Literal["float32", "bfloat16", "auto"]


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ValueError if ``device`` has no instructions for ``precision``: bfloat16 would be emulated, slowly."""
    if precision == "bfloat16" and not computes_bfloat16(device):
        raise ValueError(
            f"GENSERVE_PRECISION=bfloat16, but this {device.type} has no bfloat16 instructions; "
            "allowed: float32 and auto"
        )


def at_precision(model: Model, precision: Precision) -> Model:
    """``model`` with its denoiser at ``precision``; "auto" is bfloat16 where its device has instructions for it.

    Not what is faster when it is loaded: two engines that measured could decide differently, and give one seed two
    pictures. Models of one step are unchanged, and those that state their own type: folders in diffusers' format.
    """
    own_type = model.manifest.pipeline is not None or model.manifest.inference_dtype != "float32"
    exact = precision == "float32" or (precision == "auto" and not computes_bfloat16(model.device))
    if exact or model.denoise is None or own_type:
        return model
    return replace(model, denoise=in_bfloat16(model.denoise, model.device.type))
