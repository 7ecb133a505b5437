"""Copies between the host and a device, through pinned memory where the device is not the host itself."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, without waiting for the copy: what is computed there comes after it."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> list[Tensor]:
    """``tensors`` on the host, waiting once for all of them."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    copies = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return copies


def wait_for(device: torch.device) -> None:
    """Until all that was asked of ``device`` is done. A CPU does as it is asked; a GPU is asked ahead."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
