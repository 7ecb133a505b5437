"""Copies between the host and a device, through pinned memory for a GPU.

A pinned tensor may be dropped once its copy is queued: torch does not reuse its memory before the copy is done.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Alignment of each packed tensor in bytes, as the widest loads of kernels need it.
ALIGNMENT = 16


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``. Does not wait for the copy: later work on the device is ordered after it."""
    (copy,) = to_device_together([tensor], device)
    return copy


def to_device_together(tensors: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """``tensors`` on ``device`` by one copy, without waiting for it; on a CPU, the tensors themselves.

    One copy, because launching dominates the cost of a small copy to a GPU.
    """
    if device.type == "cpu":
        return tensors
    packed = pack(tensors, pinned=True).to(device, non_blocking=True)
    return unpack(packed, tensors)


def pack(tensors: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """The bytes of host ``tensors`` in one host tensor."""
    packed = torch.empty(sum(map(_padded_bytes, tensors)), dtype=torch.uint8, pin_memory=pinned)
    for place, tensor in zip(unpack(packed, tensors), tensors, strict=True):
        place.copy_(tensor)
    return packed


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of ``packed`` with the shapes and types of ``like``, the inverse of ``pack``."""
    views, start = [], 0
    for tensor in like:
        views.append(packed[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        start += _padded_bytes(tensor)
    return views


def _padded_bytes(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def to_host(*tensors: Tensor) -> list[Tensor]:
    """``tensors`` on the host, waiting once for all of them."""
    device = tensors[0].device
    if device.type == "cpu":
        return list(tensors)
    copies = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    wait_for(device)
    return copies


def wait_for(device: torch.device) -> None:
    """Wait until all queued work of a GPU is done; a CPU queues none."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
