"""The state of a run on disk: written whole or not at all, read without unpickling code."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from trainer.config import RunConfig

FILE_NAME = "checkpoint.pt"
FORMAT = 3


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, of another run, or cannot be written; the message names the file."""


def save(run: Path, config: RunConfig, state: dict[str, Any]) -> None:
    """Replace ``run``'s checkpoint with ``state``; a crash at any moment leaves the old one or the new.

    Raises CheckpointError when it cannot be written: on a full disk, say. The old one is kept.
    """
    path = run / FILE_NAME
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, "config": config.model_dump_json(), **state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as failure:  # torch's writer may turn the first into the second
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        kept = "; the one before is kept" if path.exists() else ""
        raise CheckpointError(f"{path} cannot be written: {first_line(failure)}{kept}") from failure


def load(run: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The config and state of ``run``, tensors on the CPU. Raises CheckpointError."""
    path = run / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: nothing was trained there yet")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as failure:  # torch.load raises whatever its zip and unpickler layers meet
        raise CheckpointError(f"{path} cannot be read: {first_line(failure)}") from failure
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of this trainer")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} is of format {state['format']}, and this version reads format {FORMAT} alone")
    if "config" not in state:
        raise CheckpointError(f"{path} lacks its config")
    try:
        return RunConfig.model_validate_json(state["config"]), state
    except ValidationError as failure:
        first = failure.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path} has a config that this version does not know, see its {field}: {first['msg']}"
        ) from failure


def generator(state: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged generator that a run stands for, a ``state_dict``: its best, or where none was measured its last."""
    if state["best"] is not None:
        best: dict[str, Tensor] = state["best"]["generator"]
        return best
    average = state["average"].items()
    return {name.removeprefix("module."): value for name, value in average if name.startswith("module.")}


def first_line(failure: Exception) -> str:
    """What went wrong, in a line."""
    return f"{type(failure).__name__}: {failure}".splitlines()[0]
