"""Denoising in bfloat16: the network's products and convolutions; all other arithmetic stays float32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def computes_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16: AVX-512 BF16 or AMX on a CPU, Ampere or later on a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def in_bfloat16(network: Callable[..., Tensor], device_type: str) -> Callable[..., Tensor]:
    """``network`` with its products and convolutions in bfloat16; its result is float32."""

    def computed(*batch: Any, **adapted: Any) -> Tensor:  # noqa: ANN401
        # A cached cast would be memory of a CUDA graph's capture, used outside of it.
        with torch.autocast(device_type, torch.bfloat16, cache_enabled=False):
            return network(*batch, **adapted).float()

    return computed
