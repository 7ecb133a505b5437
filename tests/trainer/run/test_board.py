"""What TensorBoard reads in the files."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.run.board import Board


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_curves_and_pictures_are_read_back(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for step in range(3):
        board.scalar("loss/all", step / 2, step)
    grey = torch.arange(12, dtype=torch.uint8).view(1, 3, 4)
    board.image("samples", grey, 1)
    board.close()
    events = read(tmp_path)
    assert [(point.step, point.value) for point in events.Scalars("loss/all")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    (shown,) = events.Images("samples")
    assert (shown.step, shown.height, shown.width) == (1, 3, 4)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.encoded_image_string))), grey[0])


def test_a_resumed_run_replaces_the_steps_that_it_takes_again(tmp_path: Path) -> None:
    for first, value in ((None, 1.0), (2, 5.0)):
        board = Board(tmp_path, first)
        for step in range(first or 0, 4):
            board.scalar("loss", value, step)
        board.close()
    assert [point.value for point in read(tmp_path).Scalars("loss")] == [1.0, 1.0, 5.0, 5.0]


def test_what_was_flushed_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.scalar("loss", 1.0, 1)
    board.flush()
    assert len(read(tmp_path).Scalars("loss")) == 1
    board.close()
