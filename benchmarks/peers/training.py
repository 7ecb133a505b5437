"""What our trainer and the peers' are given alike, and what the peers give back."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

#: What the peers' norms and attention heads can divide.
WIDTHS = range(8, 257, 4)

DRAWN_AT_ONCE = 100


@dataclass(frozen=True)
class Task:
    """So many steps on the pictures under ``folder`` by a network of about ``parameters``, in float32.

    Where ``samples`` are wanted, the trained model then draws so many pictures by ``sampling_steps`` of DDIM and leaves
    them in ``drawn``, uint8 (samples, channel, height, width).
    """

    folder: str
    image_size: int
    batch_size: int
    warm_up: int
    steps: int
    parameters: int
    threads: int
    samples: int = 0
    sampling_steps: int = 20
    drawn: str = ""

    @classmethod
    def told(cls) -> "Task":
        """The one on the command line, in JSON; torch takes its threads."""
        task = cls(**json.loads(sys.argv[1]))
        torch.set_num_threads(task.threads)
        return task

    @torch.no_grad()
    def draw(self, sample: Callable[[int], Tensor]) -> None:
        """Keep the pictures of ``sample``: (batch, channel, height, width) in [0, 1] of a batch's size."""
        if self.samples:
            sizes = [min(DRAWN_AT_ONCE, self.samples - first) for first in range(0, self.samples, DRAWN_AT_ONCE)]
            pictures = torch.cat([sample(size) for size in sizes])
            torch.save((pictures.clamp(0, 1) * 255).round().to("cpu", torch.uint8), Path(self.drawn))

    def report(self, seconds: float, network: nn.Module) -> None:
        """Print images a second and the number of parameters as JSON."""
        parameters = sum(weight.numel() for weight in network.parameters())
        print(json.dumps({"images_per_s": self.steps * self.batch_size / seconds, "parameters": parameters}))


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
