"""What our trainer and the peers' are given alike."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

#: What the peers' norms and attention heads can divide.
WIDTHS = range(8, 257, 4)


@dataclass(frozen=True)
class Task:
    """So many steps on the pictures under ``folder`` by a network of about ``parameters``, in float32."""

    folder: str
    image_size: int
    batch_size: int
    warm_up: int
    steps: int
    parameters: int
    threads: int


def nearest(build: Callable[[int], nn.Module], parameters: int) -> nn.Module:
    """The network whose number of parameters is nearest to ``parameters``, of the widths that there are."""

    def distance(width: int) -> int:
        with torch.device("meta"):
            return abs(sum(weight.numel() for weight in build(width).parameters()) - parameters)

    return build(min(WIDTHS, key=distance))


def synchronise() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
