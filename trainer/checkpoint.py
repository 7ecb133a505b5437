"""The state of a run on disk: written whole or not at all, read without unpickling code."""

import os
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from trainer.config import RunConfig

FILE_NAME = "checkpoint.pt"
FORMAT = 1


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, or of another run; the message names the file."""


def save(run: Path, config: RunConfig, state: dict[str, Any]) -> None:
    """Replace ``run``'s checkpoint with ``state``; a crash at any moment leaves the old one or the new."""
    path = run / FILE_NAME
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save({"format": FORMAT, "config": config.model_dump_json(), **state}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(run: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The config and state of ``run``, tensors on the CPU. Raises CheckpointError."""
    path = run / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: nothing was trained there yet")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as failure:  # torch.load raises whatever its zip and unpickler layers meet
        reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
        raise CheckpointError(f"{path} cannot be read: {reason}") from failure
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT}")
    try:
        return RunConfig.model_validate_json(state["config"]), state
    except ValidationError as failure:
        field = ".".join(map(str, failure.errors()[0]["loc"]))
        raise CheckpointError(f"{path} has a config that this version does not know, see its {field}") from failure
