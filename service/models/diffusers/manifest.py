"""The manifest of a diffusers folder, made in memory: from its configurations, and from a hash of its weights."""

import math
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from torch import __version__ as torch_version

from service.contract.manifest import Artifact, Capability, Defaults, DeterministicSolver, Manifest
from service.contract.pipeline import Pipeline
from service.contract.records import DIFFUSERS_FILE
from service.models.diffusers.card import Card, describe
from service.models.diffusers.configs import PixelUNet
from service.models.diffusers.files import FolderError, read_json
from service.models.diffusers.folder import DiffusersFolder, read_folder
from service.models.diffusers.networks import input_shapes
from service.models.diffusers.version import digest_of, size_of, stamps_of
from service.sampling.diffusers_schedule import DiffusionSchedule

_lock = threading.Lock()
_made: dict[Path, tuple[object, Manifest]] = {}


def diffusers_manifest(directory: Path) -> Manifest:
    """The manifest of the folder. Its files are hashed once, and again when the stamp of one of them changes.

    Raises:
        FolderError: the folder cannot be served.
    """
    try:
        stamps = stamps_of(directory)
    except OSError as failure:
        raise FolderError(directory, failure.strerror or "cannot be read") from failure
    with _lock:
        known = _made.get(directory)
    if known is not None and known[0] == stamps:
        return known[1]
    manifest = _manifest(directory, read_folder(directory))
    with _lock:
        _made[directory] = stamps, manifest
    return manifest


def scheduler_config(folder: DiffusersFolder) -> dict[str, Any]:
    """The scheduler's configuration as the folder's pipeline changes it when it is loaded."""
    config = dict(folder.scheduler_fields)
    if folder.pipeline == "DDIMPipeline":
        config["_class_name"] = "DDIMScheduler"
    if folder.kind == "text" and not folder.pipeline.startswith("LatentConsistency"):
        config["steps_offset"] = 1
        if folder.pipeline != "StableDiffusionInpaintPipeline":
            config["clip_sample"] = False
    # JSON has no infinity, and without it the bound is the same.
    return {name: value for name, value in config.items() if (name, value) != ("lambda_min_clipped", -math.inf)}


def _manifest(directory: Path, folder: DiffusersFolder) -> Manifest:
    card = describe(folder)
    if card.name not in (None, directory.name):
        raise FolderError(directory, f"genserve.json: name: {card.name} in a folder named {directory.name}")
    width, height = card.sizes.width, card.sizes.height
    written = datetime.fromtimestamp((folder.path / DIFFUSERS_FILE).stat().st_mtime, UTC)
    try:
        return Manifest(
            schema_version=1,
            name=directory.name,
            family="diffusers",
            image_shape=(3 if folder.vae is not None else folder.latent_channels, height, width),
            latent_shape=(folder.latent_channels, height // folder.latent_factor, width // folder.latent_factor),
            x0_range=None,
            class_names=card.class_names or tuple(str(label) for label in range(card.classes)),
            noise_schedule=None,
            t_max=None,
            capabilities=_capabilities(folder, card),
            defaults=_defaults(card),
            inference_dtype=card.dtype or "float32",  # type: ignore[arg-type]
            artifact=_artifact(folder),
            pipeline=_pipeline(folder, card),
            torch_version=torch_version,
            created=written.date().isoformat(),
        )
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        raise FolderError(directory, f"{'.'.join(map(str, error['loc']))}: {error['msg']}") from failure


def _capabilities(folder: DiffusersFolder, card: Card) -> tuple[Capability, ...]:
    """A path needs a solver that adds no noise, and pictures that begin from nothing else."""
    deterministic = not {*get_args(DeterministicSolver)}.isdisjoint(_solvers(folder, card))
    return ("generate", "interpolate") if deterministic and not folder.paints_in else ("generate",)


def _defaults(card: Card) -> Defaults:
    """A scale of at most 1 is no guidance in diffusers, and 1 is none here."""
    scale = card.guidance_scale if card.guidance == "embedded" else max(1.0, card.guidance_scale)
    return Defaults(steps=card.steps, solver=card.solver, guidance_scale=scale)  # type: ignore[arg-type]


def _artifact(folder: DiffusersFolder) -> Artifact:
    return Artifact(format="diffusers", file=DIFFUSERS_FILE, size=size_of(folder), sha256=digest_of(folder))


def _pipeline(folder: DiffusersFolder, card: Card) -> Pipeline:
    text = text_shapes(folder)
    shapes = input_shapes(folder, text, card.sizes.height, card.sizes.width)
    no_class = isinstance(folder.unet.config, PixelUNet) and 0 < len(card.class_names) < card.classes
    return Pipeline(
        class_name=card.pipeline,
        tasks=card.tasks,
        sizes=card.sizes,
        factor=folder.latent_factor,
        prediction_type=folder.scheduler.prediction_type,
        scheduler=scheduler_config(folder),
        solvers=_solvers(folder, card),
        guidance=card.guidance,
        negative_prompt=card.negative,
        zero_negative=folder.kind == "xl" and bool(folder.index.get("force_zeros_for_empty_prompt", True)),
        encoders=len(folder.texts),
        tokens=_tokens(folder),
        text=text,
        inputs={name: shape for name, shape in shapes.items() if name not in text},
        controls=card.controls,
        loras=card.loras,
        paints_in=folder.paints_in,
        no_class=no_class,
        licence=card.licence,
        parameters=card.parameters,
        notes=card.notes,
    )


def _solvers(folder: DiffusersFolder, card: Card) -> tuple[str, ...]:
    """The solvers that have a table for the scheduler's configuration. Raises FolderError if the default has none."""
    usable, config = [], scheduler_config(folder)
    for solver in card.solvers:
        try:
            DiffusionSchedule.from_config(config, solver)  # type: ignore[arg-type]
        except ValueError as failure:
            if solver == card.solver:
                raise FolderError(folder.path / "scheduler/scheduler_config.json", str(failure)) from failure
        else:
            usable.append(solver)
    return tuple(usable)


def text_shapes(folder: DiffusersFolder) -> dict[str, tuple[int, ...]]:
    """The inputs that a prompt gives."""
    if not folder.texts:
        return {}
    configs = [text.encoder.config for text in folder.texts]
    shapes: dict[str, tuple[int, ...]] = {"context": (_tokens(folder), sum(config.hidden_size for config in configs))}
    return {**shapes, "pooled": (configs[-1].projection_dim,)} if folder.kind == "xl" else shapes


def _tokens(folder: DiffusersFolder) -> int:
    """The tokens of a prompt, with those that mark its ends: the fewest that an encoder or a tokenizer takes."""
    most = [text.encoder.config.max_position_embeddings for text in folder.texts]
    for text in folder.texts:
        path = text.tokenizer / "tokenizer_config.json"
        length = read_json(path).fields.get("model_max_length") if path.is_file() else None
        if isinstance(length, int | float) and length >= 1:
            most.append(int(min(length, 1 << 20)))
    return min(most, default=0)
