"""From a network's range to bytes, the same for a served picture and for a scored one."""

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Pictures (batch, channel, height, width) in [-1, 1] as uint8 (batch, height, width, channel).

    -1 becomes 0 and 1 becomes 255; values beyond are clamped, those between rounded, halves to even.
    """
    levels = (images.float() + 1).mul(127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
