"""Copies between the host and a device, through pinned memory where the device is not the host itself.

A pinned block may be dropped as soon as its copy was asked for: torch gives it to nobody else before the copy is done.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Bytes at a multiple of which every tensor of a pack begins, so that kernels may read it in their widest steps.
ALIGNMENT = 16


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, without waiting for the copy: what is computed there comes after it."""
    (copy,) = to_device_together([tensor], device)
    return copy


def to_device_together(tensors: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """``tensors`` on ``device`` by one copy for all of them, without waiting for it.

    A small copy to a GPU costs what starting it costs, whatever its size. On a CPU they are themselves.
    """
    if device.type == "cpu":
        return tensors
    packed = pack(tensors, pinned=True).to(device, non_blocking=True)
    return unpack(packed, tensors)


def pack(tensors: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """The bytes of ``tensors``, which are on the host, in one tensor there."""
    packed = torch.empty(sum(map(_room, tensors)), dtype=torch.uint8, pin_memory=pinned)
    for place, tensor in zip(unpack(packed, tensors), tensors, strict=True):
        place.copy_(tensor)
    return packed


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """What ``pack`` packed of ``like``, as views of ``packed``."""
    views, start = [], 0
    for tensor in like:
        views.append(packed[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        start += _room(tensor)
    return views


def _room(tensor: Tensor) -> int:
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
    """Until all that was asked of ``device`` is done. A CPU does as it is asked; a GPU is asked ahead."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
