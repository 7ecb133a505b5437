"""The state of a run on disk: replaced atomically, read without unpickling code."""

import hashlib
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
    """The checkpoint is missing, damaged, of another run, or not writable; the message names the file."""


def save(run: Path, config: RunConfig, state: dict[str, Any]) -> None:
    """Replace ``run``'s checkpoint by ``state``; a crash leaves either the old one or the new one.

    Raises CheckpointError when it cannot be written, for instance on a full disk. The old one is kept.
    """
    path = run / FILE_NAME
    # Serialised in memory first: torch's file writer hides the reason of a failure, such as a full disk.
    content = io.BytesIO()
    torch.save({"format": FORMAT, "config": config.model_dump_json(), **state}, content)
    try:
        write(path, content.getvalue())
    except OSError as failure:
        kept = "; the previous one is kept" if path.exists() else ""
        size = f"{content.tell() / 1e6:,.1f} MB"
        raise CheckpointError(f"{path} cannot be written ({size}): {failure.strerror}{kept}") from failure


def load(run: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The config and state of ``run``, tensors on the CPU. Raises CheckpointError."""
    path = run / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: no run was saved there")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as failure:  # torch.load passes on all errors of zipfile and the unpickler
        raise CheckpointError(f"{path} cannot be read: {first_line(failure)}") from failure
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of this trainer")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}; this version reads format {FORMAT} only")
    if "config" not in state:
        raise CheckpointError(f"{path} contains no config")
    try:
        return RunConfig.model_validate_json(state["config"]), state
    except ValidationError as failure:
        first = failure.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path} has a config that this version cannot read, field {field}: {first['msg']}"
        ) from failure


def version(run: Path) -> str:
    """The first eight characters of the checkpoint's SHA-256. Raises OSError."""
    with (run / FILE_NAME).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def data_difference(state: dict[str, Any], data: ImageData, *, changed_data: bool = False) -> str:
    """A description of how ``data`` differs from the training data of ``state``; empty when it does not.

    With ``changed_data`` only the shape of the images and the classes are compared: the networks depend on them.
    """
    facts = DataFacts(**state["data"])
    if changed_data:
        facts = replace(data.facts, image_shape=facts.image_shape, class_names=facts.class_names)
    if problem := facts.difference(data.facts):
        return problem
    # Checkpoints of earlier versions contain no fingerprint.
    if changed_data or state.get("fingerprint", data.fingerprint) == data.fingerprint:
        return ""
    return "the same number of images, but different images or labels"


def generator(state: dict[str, Any]) -> dict[str, Tensor]:
    """The EMA weights of the generator, a ``state_dict``: the best ones, or the last when no distance was measured."""
    if state["best"] is not None:
        best: dict[str, Tensor] = state["best"]["generator"]
        return best
    average = state["average"].items()
    return {name.removeprefix("module."): value for name, value in average if name.startswith("module.")}


def first_line(failure: Exception) -> str:
    """The type and the first line of an error."""
    return f"{type(failure).__name__}: {failure}".splitlines()[0]
