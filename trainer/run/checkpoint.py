"""The state of a run on disk: written whole or not at all, read without unpickling code."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from trainer.config import RunConfig
from trainer.data import DataFacts, ImageData
from trainer.files import write

FILE_NAME = "checkpoint.pt"
FORMAT = 3


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, of another run, or cannot be written; the message names the file."""


def save(run: Path, config: RunConfig, state: dict[str, Any]) -> None:
    """Replace ``run``'s checkpoint with ``state``; a crash at any moment leaves the old one or the new.

    Raises CheckpointError when it cannot be written: on a full disk, say. The old one is kept.
    """
    path = run / FILE_NAME
    # In memory first: torch's writer to a file hides the reason, such as a full disk, behind one of its own.
    content = io.BytesIO()
    torch.save({"format": FORMAT, "config": config.model_dump_json(), **state}, content)
    try:
        write(path, content.getvalue())
    except OSError as failure:
        kept = "; the one before is kept" if path.exists() else ""
        size = f"{content.tell() / 1e6:,.1f} MB"
        raise CheckpointError(f"{path} cannot be written ({size}): {failure.strerror}{kept}") from failure


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


def other_data(state: dict[str, Any], data: ImageData, *, changed_data: bool = False) -> str:
    """How ``data`` differs from what the run of ``state`` was trained on, in words; empty when it does not.

    With ``changed_data`` only what its networks do not fit counts: pictures of another shape, other classes.
    """
    facts = DataFacts(**state["data"])
    if changed_data:
        facts = replace(data.facts, image_shape=facts.image_shape, class_names=facts.class_names)
    if problem := facts.unlike(data.facts):
        return problem
    # Checkpoints of earlier versions have no fingerprint.
    if changed_data or state.get("fingerprint", data.fingerprint) == data.fingerprint:
        return ""
    return "as many pictures, but others, or in other classes"


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
