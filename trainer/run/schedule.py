"""The pure functions of a run's progress: learning rate, averaging, order of pictures, dropped labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.compute.draws import Draws
from trainer.config import OptimizerConfig

Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Plan:
    """The length of a run in steps; the last epoch may be cut short."""

    total: int
    per_epoch: int

    @property
    def epochs(self) -> int:
        """Epochs that are begun in all."""
        return self.epoch(self.total)

    def epoch(self, step: int) -> int:
        """The number, from 1, of the epoch to which the last of ``step`` steps belongs; 0 before the first."""
        return -(-step // self.per_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or the run, ends after ``step`` steps."""
        return step % self.per_epoch == 0 or step == self.total


def learning_rate_factor(settings: OptimizerConfig, progress: float) -> float:
    """What the learning rate is multiplied by when ``progress`` (0 to 1) of the run is done."""
    if progress < settings.warmup:
        return progress / settings.warmup
    if not settings.decay:
        return 1.0
    done = (progress - settings.warmup) / (1.0 - settings.warmup)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done))


def ema_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """An exponential moving average for AveragedModel, its horizon growing with the steps up to ``decay``.

    A fixed decay near one keeps the random start in the average of a short run for thousands of steps.
    """

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, seen: Tensor | int) -> None:
        warm = min(decay, (1.0 + int(seen)) / (10.0 + int(seen)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1.0 - warm)
        else:  # counters, such as batch norm's
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)

    return average


def drop_labels(label: Tensor, share: float, null_label: int, draws: Draws) -> Tensor:
    """``label`` (batch,) with a random ``share`` replaced by "no class", so that one network learns both."""
    dropped = draws.rand(len(label)) < share
    return torch.where(dropped, null_label, label)


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order in which an epoch visits the images: (count,) int64, a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)
