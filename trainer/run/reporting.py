"""What a run tells while it goes: TensorBoard events, and a bar on a terminal or lines where there is none."""

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

#: Epochs of a few steps would fill a log: a run writes at most so many lines.
MOST_LINES = 200


class Report:
    """The reports of the first process; those of the others do nothing."""

    def __init__(self, board: Board | None, bar: "tqdm[Any]", plan: Plan, step: int) -> None:
        self._board, self._bar, self._plan = board, bar, plan
        self._lines = board is not None and not sys.stderr.isatty()
        self._begun_at, self._begun_with = time.monotonic(), step

    def advance(self, images: int) -> None:
        """Move the bar on."""
        self._bar.update(images)

    def step(self, step: int, losses: dict[str, float]) -> None:
        """The losses of one step."""
        self._scalars("loss", losses, step)
        self._bar.set_postfix_str(f"epoch {self._plan.epoch(step)}/{self._plan.epochs}, {_in_words(losses)}")

    def epoch(self, step: int, losses: dict[str, float]) -> None:
        """The mean losses of the epoch that ended with ``step``."""
        epoch, epochs = self._plan.epoch(step), self._plan.epochs
        self._scalars("epoch", losses, epoch)
        if self._board is not None:
            self._board.flush()
        every = ceil(epochs / MOST_LINES)
        if epoch % every == 0 or step == self._plan.total:
            where = f"epoch {epoch}/{epochs}, step {step:,}/{self._plan.total:,}"
            self._line(f"{where}: {_in_words(losses)}{self._eta(step)}")

    def drawing(self, step: int) -> None:
        """Samples are about to be drawn, which takes a while without a training step."""
        self._bar.set_postfix_str("drawing samples")
        self._line(f"epoch {self._plan.epoch(step)}: drawing samples")

    def samples(self, step: int, grid: Tensor) -> None:
        """A grid of samples, uint8 (channel, height, width)."""
        if self._board is not None:
            self._board.image("samples", grid, self._plan.epoch(step))

    def distance(self, step: int, distance: float) -> None:
        """How far the samples are from the training pictures."""
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
        done, left = step - self._begun_with, self._plan.total - step
        if not (done and left):
            return ""
        return f"; {duration((time.monotonic() - self._begun_at) / done * left)} to go"


@contextmanager
def reporting(folder: Path, plan: Plan, name: str, batch_size: int, step: int) -> Iterator[Report]:
    """The reports of a run that stands at ``step``; events go to ``folder``.

    Raises OSError with the name of ``folder`` when an event cannot be written: the system's own error names no file.
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


def _in_words(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
