"""Conversion between a network's range and bytes, the same for served and for scored pictures."""

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Pictures (batch, channel, height, width) in [-1, 1] as uint8 (batch, height, width, channel).

    -1 becomes 0 and 1 becomes 255; values are rounded (half to even) and clamped.
    """
    levels = (images.float() + 1).mul_(127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_uint8(pixels: Tensor) -> Tensor:
    """A picture (height, width, channel) uint8 as (channel, height, width) in [-1, 1]; the inverse of `to_uint8`."""
    return (pixels.float() / 127.5 - 1).permute(2, 0, 1).contiguous()
