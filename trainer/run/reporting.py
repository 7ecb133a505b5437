"""Progress reports of a run: TensorBoard events, and a progress bar on a terminal or lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from trainer.card import duration
from trainer.compute import processes
from trainer.run.board import Board
from trainer.run.schedule import Plan

#: Largest number of lines of a run: epochs of a few steps would fill a log.
MOST_LINES = 200


class Report:
    """Reports of the main process; in other processes every method does nothing."""

    def __init__(self, board: Board | None, bar: "tqdm[Any]", plan: Plan, step: int) -> None:
        self._board, self._bar, self._plan = board, bar, plan
        self._lines = board is not None and not sys.stderr.isatty()
        self._started_at, self._first_step = time.monotonic(), step

    def advance(self, images: int) -> None:
        """Advance the progress bar."""
        self._bar.update(images)

    def step(self, step: int, losses: dict[str, float]) -> None:
        """Report the losses of one step."""
        self._scalars("loss", losses, step)
        self._bar.set_postfix_str(f"epoch {self._plan.epoch(step)}/{self._plan.epochs}, {_formatted(losses)}")

    def epoch(self, step: int, losses: dict[str, float]) -> None:
        """Report the mean losses of the epoch that ended with ``step``."""
        epoch, epochs = self._plan.epoch(step), self._plan.epochs
        self._scalars("epoch", losses, epoch)
        if self._board is not None:
            self._board.flush()
        every = ceil(epochs / MOST_LINES)
        if epoch % every == 0 or step == self._plan.total:
            where = f"epoch {epoch}/{epochs}, step {step:,}/{self._plan.total:,}"
            self._line(f"{where}: {_formatted(losses)}{self._eta(step)}")

    def drawing(self, step: int) -> None:
        """Report that samples are drawn now: the loss stands still for that time."""
        self._bar.set_postfix_str("drawing samples")
        self._line(f"epoch {self._plan.epoch(step)}: drawing samples")

    def samples(self, step: int, grid: Tensor) -> None:
        """Report a grid of samples, uint8 (channel, height, width)."""
        if self._board is not None:
            self._board.image("samples", grid, self._plan.epoch(step))

    def distance(self, step: int, distance: float) -> None:
        """Report the distance of the samples to the training images."""
        if self._board is not None:
            self._board.scalar("distance", distance, self._plan.epoch(step))

    def _scalars(self, group: str, values: dict[str, float], at: int) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.scalar(f"{group}/{name}", value, at)

    def _line(self, text: str) -> None:
        if self._lines:
            print(text, file=sys.stderr, flush=True)

    def _eta(self, step: int) -> str:
        done, left = step - self._first_step, self._plan.total - step
        if not (done and left):
            return ""
        return f"; {duration((time.monotonic() - self._started_at) / done * left)} left"


@contextmanager
def reporting(folder: Path, plan: Plan, name: str, batch_size: int, step: int) -> Iterator[Report]:
    """Reports of a run that starts or resumes at ``step``; events go to ``folder``.

    Raises OSError with the name of ``folder`` when an event cannot be written: the system's error names no file.
    """
    first = processes.rank() == 0
    bar: tqdm[Any] = tqdm(
        total=plan.total * batch_size,
        initial=step * batch_size,
        unit="img",
        unit_scale=True,
        desc=name,
        dynamic_ncols=True,
        disable=None if first else True,  # None: only on a terminal
    )
    board = None
    try:
        try:
            board = Board(folder, purge_from=step or None) if first else None
            yield Report(board, bar, plan, step)
        finally:
            bar.close()
            if board is not None:
                board.close()
    except OSError as failure:
        if failure.filename is not None:
            raise
        raise OSError(failure.errno, failure.strerror, str(folder)) from failure


def _formatted(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
