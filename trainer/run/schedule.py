"""Pure functions of a run's progress: its length, learning rate, EMA, order of images and label dropout."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.compute.draws import Draws
from trainer.config import OptimizerConfig
from trainer.data.captions import Captions, concept_order

Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Plan:
    """The length of a run in steps; the last epoch may be incomplete."""

    total: int
    per_epoch: int

    @property
    def epochs(self) -> int:
        """The number of epochs, an incomplete one included."""
        return self.epoch(self.total)

    def epoch(self, step: int) -> int:
        """The epoch, counted from 1, that contains the last of ``step`` steps; 0 for no steps."""
        return -(-step // self.per_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or the run, ends after ``step`` steps."""
        return step % self.per_epoch == 0 or step == self.total


def learning_rate_factor(settings: OptimizerConfig, progress: float) -> float:
    """The multiplier of the learning rate after the fraction ``progress`` (0 to 1) of the run."""
    if progress < settings.warmup:
        return progress / settings.warmup
    if not settings.decay:
        return 1.0
    done = (progress - settings.warmup) / (1.0 - settings.warmup)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done))


def ema_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """An EMA update for AveragedModel whose decay grows with the number of steps, up to ``decay``.

    A fixed decay near 1 would keep the random initialisation in the EMA for thousands of steps.
    """

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, seen: Tensor | int) -> None:
        warm = min(decay, (1.0 + int(seen)) / (10.0 + int(seen)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1.0 - warm)
        else:  # integer buffers, such as batch normalisation's counter
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)

    return average


def drop_labels(label: Tensor, share: float, null_label: int, draws: Draws) -> Tensor:
    """``label`` (batch,) with a random fraction ``share`` replaced by "no class", as classifier-free guidance needs."""
    dropped = draws.rand(len(label)) < share
    return torch.where(dropped, null_label, label)


def epoch_order(seed: int, epoch: int, count: int, captions: Captions | None = None) -> Tensor:
    """The order of the images in an epoch, (count,) int64; it depends on the seed and the epoch only.

    Captioned images are drawn by concept, so an epoch may contain one twice and another not at all.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    if captions is not None:
        return concept_order(captions.concepts, generator)
    return torch.randperm(count, generator=generator)
