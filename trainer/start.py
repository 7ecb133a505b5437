"""Networks that a run can start from: those of a finished run or of an exported model."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from service.contract.artifact import read_artifact
from service.contract.manifest import MANIFEST_FILE, Manifest, read_manifest
from trainer.config import RunConfig
from trainer.data import DataFacts
from trainer.export import Container, require_finished
from trainer.objectives import build
from trainer.run import checkpoint
from trainer.text.words import read_tokenizer


class StartError(Exception):
    """A run cannot start from this model; the message says why."""


@dataclass(frozen=True)
class Start:
    """A network to start from: its config, its data set, and its averaged weights, a ``state_dict``.

    ``notes`` are those of its objective: a tokenizer.
    """

    folder: Path
    config: RunConfig
    facts: DataFacts
    generator: dict[str, Tensor]
    notes: dict[str, str] = field(default_factory=dict)

    def require_matching(self, facts: DataFacts) -> None:
        """Raise StartError unless image shape and classes equal those of ``facts``."""
        if (self.facts.image_shape, self.facts.class_names) != (facts.image_shape, facts.class_names):
            raise StartError(f"--from: {self.folder} was trained on {self.facts}; the data set has {facts}")


def load_start(folder: Path) -> Start:
    """The network in ``folder``, weights/NAME or runs/NAME.

    Raises CheckpointError or ContractError when it is missing or damaged, ExportError when its run is not finished,
    StartError when the manifest lacks the training settings.
    """
    if (folder / MANIFEST_FILE).is_file():
        return _exported(folder, read_manifest(folder))
    config, state = checkpoint.load(folder)
    require_finished(folder, config, state)
    facts = DataFacts(**state["data"])
    return Start(folder, config, facts, checkpoint.generator(state), state.get("notes", {}))


def _exported(folder: Path, manifest: Manifest) -> Start:
    """Load the artefact's weights into networks built from its training settings: the inverse of ``export.script``."""
    try:
        config = RunConfig.model_validate(manifest.made_by.settings)
    except ValidationError as failure:
        field = ".".join(map(str, failure.errors()[0]["loc"]))
        raise StartError(
            f"--from: {folder / MANIFEST_FILE} lacks a valid training.settings.{field}: "
            "export its run again, or start from the run"
        ) from failure
    source = manifest.made_from
    facts = DataFacts(
        source.name, manifest.image_shape, manifest.class_names, source.licence, source.source, source.images
    )
    objective = build(config, facts.image_shape, len(facts.class_names), torch.device("cpu"))
    notes = {} if manifest.text is None else {"tokenizer": read_tokenizer(folder, manifest.text).to_str()}
    objective.recall(notes)
    payload = io.BytesIO(read_artifact(folder, manifest.artifact))
    scripted = torch.jit.load(payload, map_location="cpu")  # type: ignore[no-untyped-call]
    try:
        Container(objective.parts(objective.generator)).load_state_dict(scripted.state_dict())
    except RuntimeError as failure:
        reason = " ".join(str(failure).split())
        raise StartError(f"--from: {folder} was exported by another version of the trainer: {reason}") from failure
    return Start(folder, config, facts, objective.generator.state_dict(), notes)
