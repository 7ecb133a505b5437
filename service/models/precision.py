"""Denoising in bfloat16: the network's products and convolutions; all other arithmetic stays float32."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from service.engine.model import Model

Precision = Literal["float32", "bfloat16"]


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ValueError if ``device`` has no instructions for ``precision``: bfloat16 would be emulated, slowly."""
    if precision == "bfloat16" and not computes_bfloat16(device):
        raise ValueError(
            f"GENSERVE_PRECISION=bfloat16, but this {device.type} has no bfloat16 instructions; allowed: float32"
        )


def computes_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16: AVX-512 BF16 or AMX on a CPU, Ampere or later on a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def at_precision(model: Model, precision: Precision) -> Model:
    """``model`` with its denoiser at ``precision``.

    Models of one step are unchanged, and those that state their own type: folders in diffusers' format.
    """
    own_type = model.manifest.pipeline is not None or model.manifest.inference_dtype != "float32"
    if precision == "float32" or model.denoise is None or own_type:
        return model
    return replace(model, denoise=_in_bfloat16(model.denoise, model.device.type))


def _in_bfloat16(part: Callable[..., Tensor], device_type: str) -> Callable[..., Tensor]:
    def computed(*batch: Any, **adapted: Any) -> Tensor:  # noqa: ANN401
        # A cached cast would be memory of a CUDA graph's capture, used outside of it.
        with torch.autocast(device_type, torch.bfloat16, cache_enabled=False):
            return part(*batch, **adapted).float()

    return computed
