"""A diffusers folder as a model of the engine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.contract.files import ContractError
from service.contract.manifest import Manifest, SolverName
from service.contract.pipeline import Pipeline
from service.engine.inputs import declared_by
from service.engine.model import Model
from service.models.diffusers.folder import read_folder
from service.models.diffusers.libraries import require_libraries
from service.models.diffusers.load import load_networks
from service.models.diffusers.networks import Networks
from service.models.diffusers.text import Tokenizers, load_tokenizer
from service.process import available_bytes
from service.sampling.diffusers_schedule import DiffusionSchedule
from service.sampling.step import Inputs

_WIDTHS = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}
_GIB = 1 << 30


def load_diffusers(directory: Path, device: torch.device, manifest: Manifest) -> Model:
    """The networks of the folder on ``device``, described by ``manifest``.

    Raises:
        ContractError: a library is missing, the memory is not enough, or the folder cannot be served.
    """
    assert manifest.pipeline is not None
    folder, dtype = read_folder(directory), _dtype(manifest, device)
    _require_memory(directory, bytes_of_weights(manifest, device), device)
    networks = load_networks(folder, device, dtype)
    has_vae, has_text = networks.autoencoder is not None, networks.text is not None
    return replace(
        described(manifest, device),
        decode=_decoding(networks),
        denoise=networks.denoise,
        encode=_encoding(networks) if has_vae else None,
        encode_text=networks.encode_text if has_text else None,
        tokenize=networks.tokenize if has_text else None,
    )


def bytes_of_weights(manifest: Manifest, device: torch.device) -> int:
    """The memory that the networks of a folder take on ``device``, in bytes, without that for computing."""
    assert manifest.pipeline is not None
    return manifest.pipeline.parameters * _WIDTHS[_dtype(manifest, device)]


def with_tokenizers(model: Model, directory: Path) -> Model:
    """``model`` that is described only, with the tokenizers of its folder. Raises ContractError."""
    pipeline = model.manifest.pipeline
    if pipeline is None or not pipeline.tokens:
        return model
    require_libraries(directory)
    tokenizers = [load_tokenizer(text) for text in read_folder(directory).texts]
    return replace(model, tokenize=Tokenizers(tokenizers, pipeline.tokens).tokenize)


def described(manifest: Manifest, device: torch.device) -> Model:
    """The model of a folder's manifest, with functions that must be replaced or computed elsewhere."""
    pipeline = manifest.pipeline
    assert pipeline is not None
    has_vae = pipeline.factor > 1 or bool(pipeline.text)
    return Model(
        manifest,
        device,
        elsewhere,
        elsewhere,
        encode=elsewhere if has_vae else None,
        inputs=declared_by(pipeline),
        prediction=pipeline.prediction_type,
        schedules=schedules_of(pipeline),
        decodes_apart=has_vae,
        adapters=pipeline.loras,
        encode_text=elsewhere if pipeline.text else None,
    )


def schedules_of(pipeline: Pipeline) -> Mapping[SolverName, DiffusionSchedule]:
    """A schedule for each solver of the folder. Raises ValueError as ``DiffusionSchedule.from_config``."""
    made: dict[SolverName, DiffusionSchedule] = {}
    for solver in pipeline.solvers:
        made[solver] = DiffusionSchedule.from_config(pipeline.scheduler, solver)  # type: ignore[index, arg-type]
    return made


def elsewhere(*_: object, **__: object) -> Any:
    """In place of a model's functions where engine processes compute them."""
    raise RuntimeError("engine processes compute this")


def _decoding(networks: Networks) -> Any:
    def decode(latent: Tensor, inputs: Inputs) -> Tensor:  # noqa: ARG001
        return networks.decode(latent)

    return decode


def _encoding(networks: Networks) -> Any:
    def encode(image: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        return networks.encode(image)

    return encode


def _dtype(manifest: Manifest, device: torch.device) -> torch.dtype:
    """The type to compute in: on a CPU, half precision has no kernels for some layers, or slow ones."""
    dtype: torch.dtype = getattr(torch, manifest.inference_dtype)
    return torch.float32 if device.type == "cpu" and dtype == torch.float16 else dtype


def _require_memory(directory: Path, needed: int, device: torch.device) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    if needed > free:
        raise ContractError(directory, f"its weights need {needed / _GIB:.1f} GiB, and {free / _GIB:.1f} GiB are free")
