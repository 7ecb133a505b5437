"""The interface between a family and the training loop: a training step, networks, and the parts to export."""

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
from trainer.data import ImageData
from trainer.models.parts import Parts


@dataclass(frozen=True)
class Position:
    """The position of a step in its run: ``step`` of ``total``, from 0."""

    step: int
    total: int

    @property
    def progress(self) -> float:
        """The completed fraction of the run, 0 to 1."""
        return self.step / self.total


@dataclass(frozen=True)
class Task:
    """The arguments of every objective."""

    config: RunConfig
    image_shape: tuple[int, int, int]
    classes: int
    device: torch.device


class Objective(ABC):
    """Networks, optimizers and losses of one family.

    ``networks`` contains everything that is trained; ``generator`` is the part whose EMA is exported.
    """

    networks: nn.ModuleDict
    optimizers: dict[str, Optimizer]
    generator: nn.Module
    latent_shape: tuple[int, ...]

    #: Whether gradients can be accumulated over micro-batches: the loss is a mean over rows, and one optimizer steps.
    accumulates: ClassVar[bool] = False

    def __init__(self, task: Task) -> None:
        self.task = task
        self.draws = Draws(task.device)
        self._micro_batch, self._micro_batches = 0, 1

    def begin_micro_batch(self, seed: int, micro_batch: int = 0, of: int = 1) -> None:
        """Prepare the next ``train_step`` on number ``micro_batch`` (from 0) of this process's ``of`` micro-batches.

        ``seed`` determines all random numbers of the batch.
        """
        part, parts = processes.rank() * of + micro_batch, processes.count() * of
        self.draws.restart(seed, part, parts)
        seed_dropout(seed, part)
        self._micro_batch, self._micro_batches = micro_batch, of

    def bind(self, data: ImageData) -> None:  # noqa: B027  (optional)
        """Prepare the captions of ``data``, which batches do not contain. Called after ``recall``."""

    def notes(self) -> dict[str, str]:
        """State that the parts need besides weights and config: stored in the checkpoint, restored by ``recall``."""
        return {}

    def recall(self, notes: dict[str, str]) -> None:  # noqa: B027  (optional)
        """Restore the ``notes`` of the run that this one resumes or starts from."""

    @abstractmethod
    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        """One training step on a micro-batch.

        ``images`` (batch, channel, height, width) in [-1, 1], ``label`` (batch,) int64 after label dropout. Returns
        detached scalar losses on the device: reading one waits for the device.
        """

    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:
        """Initialise from another run's averaged generator, a ``state_dict``.

        ``images`` (batch, channel, height, width) in [-1, 1] and ``label`` (batch,) are for statistics of the data.
        Only the families in ``config.STARTS`` and runs with guidance implement it.
        """
        raise NotImplementedError

    @abstractmethod
    def parts(self, generator: nn.Module) -> Parts:
        """The artefact's functions with ``generator``, which is the trained network or its EMA."""

    def autocast(self) -> torch.autocast:
        """The autocast context of the run's precision, for forward passes."""
        return autocast(self.task.device, self.task.config.precision)

    def place(self, module: nn.Module) -> nn.Module:
        """``module`` on the run's device in channels-last memory format."""
        return module.to(self.task.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def make_optimizer(self, parameters: Iterable[nn.Parameter], rate: float = 1.0) -> Optimizer:
        """AdamW with the config's settings; without weight decay it equals Adam.

        Its learning rate is ``rate`` times the config's, also after warm-up and decay.
        """
        settings = self.task.config.optimizer
        return torch.optim.AdamW(
            [{"params": list(parameters), "rate": rate}],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def descend(self, optimizer: Optimizer, loss: Tensor) -> None:
        """Accumulate the gradient of ``loss``; the last micro-batch clips it and takes the step of ``optimizer``.

        The gradient is the mean over all micro-batches and processes.
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
