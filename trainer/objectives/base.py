"""What the training loop needs of a family: one step, the networks to keep, the parts to export."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.compute import processes
from trainer.compute.draws import Draws, seed_dropout
from trainer.compute.precision import autocast
from trainer.config import RunConfig
from trainer.models.parts import Parts


@dataclass(frozen=True)
class Position:
    """Where in a run a step is: ``step`` of ``total``, from 0."""

    step: int
    total: int

    @property
    def share(self) -> float:
        """The part of the run that is done, 0 to 1."""
        return self.step / self.total


@dataclass(frozen=True)
class Task:
    """What every objective is built from."""

    config: RunConfig
    image_shape: tuple[int, int, int]
    classes: int
    device: torch.device


class Objective(ABC):
    """One family's networks, optimizers and losses.

    ``networks`` is everything trained, ``generator`` the part whose average is exported.
    """

    networks: nn.ModuleDict
    optimizers: dict[str, Optimizer]
    generator: nn.Module
    latent_shape: tuple[int, ...]

    #: Whether a batch can be worked on in micro-batches: its loss is a mean over its rows, and there is one optimizer.
    accumulates: ClassVar[bool] = False

    def __init__(self, task: Task) -> None:
        self.task = task
        self.draws = Draws(task.device)
        self._micro_batch, self._micro_batches = 0, 1

    def begin(self, seed: int, micro_batch: int = 0, of: int = 1) -> None:
        """Make ready for the next ``train_step``: micro-batch ``micro_batch`` of this process's ``of``.

        All random numbers of the batch follow from ``seed``.
        """
        part, parts = processes.rank() * of + micro_batch, processes.count() * of
        self.draws.restart(seed, part, parts)
        seed_dropout(seed, part)
        self._micro_batch, self._micro_batches = micro_batch, of

    @abstractmethod
    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        """One optimisation step on a batch.

        ``images`` (batch, channel, height, width) in [-1, 1], ``label`` (batch,) int64 with dropped labels
        already replaced. Returns detached scalar losses, still on the device: reading one waits for it.
        """

    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:
        """Begin with another run's averaged generator, its ``state_dict``.

        ``images`` (batch, channel, height, width) in [-1, 1] and ``label`` (batch,) are for what must be measured on
        the data. Only families of ``config.STARTS`` begin so.
        """
        raise NotImplementedError

    @abstractmethod
    def parts(self, generator: nn.Module) -> Parts:
        """The artefact's functions over ``generator``, the trained one or its average."""

    def autocast(self) -> torch.autocast:
        """bf16 arithmetic for forward passes when the run asks for it."""
        return autocast(self.task.device, self.task.config.precision)

    def place(self, module: nn.Module) -> nn.Module:
        """``module`` on the run's device, convolutions in channels-last memory."""
        return module.to(self.task.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """AdamW as the run's config says; without weight decay it is Adam."""
        settings = self.task.config.optimizer
        return torch.optim.AdamW(
            parameters,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            foreach=True,
        )

    def descend(self, optimizer: Optimizer, loss: Tensor) -> None:
        """One clipped step of ``optimizer`` down the gradient of ``loss``, the mean over all parts of the batch.

        Of several micro-batches the last takes the step.
        """
        if self._micro_batch == 0:
            optimizer.zero_grad(set_to_none=True)
        (loss / self._micro_batches if self._micro_batches > 1 else loss).backward()  # type: ignore[no-untyped-call]
        if self._micro_batch + 1 < self._micro_batches:
            return
        parameters = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
        processes.average_gradients(parameters)
        if self.task.config.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.task.config.optimizer.clip)
        optimizer.step()
