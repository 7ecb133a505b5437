"""The model to evaluate, from an exported model or a run, with parts that are ready to generate."""

import io
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from service.contract.artifact import read_artifact
from service.contract.manifest import MANIFEST_FILE, Manifest, read_manifest
from service.contract.text import TextModel
from trainer.data import DataFacts
from trainer.evaluate.errors import EvaluationError
from trainer.export import averaged_parts
from trainer.models.parts import Diffusion, Parts
from trainer.models.text_parts import TextParts
from trainer.run import checkpoint
from trainer.text.words import read_tokenizer


@dataclass(frozen=True)
class Subject:
    """A model to evaluate: ``dataset`` is its training data, ``class_names`` its classes, if any.

    ``checkpoint`` is the version of a run's checkpoint.
    """

    name: str
    dataset: str
    class_names: tuple[str, ...]
    parts: Parts
    manifest: Manifest | None = None
    checkpoint: str = ""

    @property
    def version(self) -> str:
        """Eight characters that differ for other weights."""
        return self.checkpoint if self.manifest is None else self.manifest.version


def load_subject(folder: Path, device: torch.device) -> Subject:
    """The model in ``folder``, weights/NAME or runs/NAME, on ``device``.

    Raises EvaluationError when there is none, ContractError or CheckpointError when it is damaged.
    """
    if (folder / MANIFEST_FILE).is_file():
        return load_artefact(folder, device)
    if (folder / checkpoint.FILE_NAME).is_file():
        config, state = checkpoint.load(folder)
        parts = averaged_parts(config, state)
        if not parts.generates:
            raise EvaluationError(f"{folder} does not generate images: it is the run of an {config.family}")
        classes, version = DataFacts(**state["data"]).class_names, checkpoint.version(folder)
        return Subject(folder.name, config.dataset, classes, _placed(parts, device), checkpoint=version)
    raise EvaluationError(f"{folder} contains neither {MANIFEST_FILE} of a model nor {checkpoint.FILE_NAME} of a run")


def load_artefact(folder: Path, device: torch.device) -> Subject:
    """The exported model in ``folder``, prepared as in the service. Raises ContractError or EvaluationError."""
    manifest = read_manifest(folder)
    if "generate" not in manifest.capabilities:
        able = ", ".join(manifest.capabilities)
        raise EvaluationError(f"{manifest.name} does not generate images: it can {able}")
    payload = read_artifact(folder, manifest.artifact)
    try:
        container = torch.jit.load(io.BytesIO(payload), map_location="cpu")  # type: ignore[no-untyped-call]
        container.float()
        parts = Parts(
            image_shape=manifest.image_shape,
            classes=manifest.null_label,
            latent_shape=manifest.latent_shape,
            decode=container.decode,
            diffusion=_diffusion(manifest),
            denoise=container.denoise if manifest.denoises else None,
        )
        if manifest.text is not None:
            parts = _with_text(parts, manifest.text, container.encode_text, read_tokenizer(folder, manifest.text))
    except (RuntimeError, AttributeError) as failure:
        path = folder / manifest.artifact.file
        raise EvaluationError(f"{path} is not a TorchScript artefact of family {manifest.family}") from failure
    placed = _placed(parts, device, freeze=True)
    return Subject(manifest.name, manifest.made_from.name, manifest.class_names, placed, manifest)


def _with_text(parts: Parts, text: TextModel, encode_text: nn.Module, tokenizer: Tokenizer) -> TextParts:
    return TextParts(
        **{each.name: getattr(parts, each.name) for each in fields(parts)},
        encode_text=encode_text,
        tokenizer=tokenizer,
        tokens=text.tokens,
        context=text.width,
        hint_shape=text.hint_shape,
    )


def _diffusion(manifest: Manifest) -> Diffusion | None:
    if manifest.noise_schedule is None or manifest.t_max is None or manifest.defaults is None:
        return None
    return Diffusion(manifest.noise_schedule, manifest.t_max, manifest.x0_range, manifest.defaults)


def _placed(parts: Parts, device: torch.device, *, freeze: bool = False) -> Parts:
    def place(module: nn.Module) -> nn.Module:
        placed: nn.Module = module.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return torch.jit.freeze(placed) if freeze else placed

    if isinstance(parts, TextParts):
        parts = replace(parts, encode_text=place(parts.encode_text))
    denoise = None if parts.denoise is None else place(parts.denoise)
    return replace(parts, decode=place(parts.decode), denoise=denoise)
