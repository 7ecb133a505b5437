"""Loading TorchScript artefacts as models. No other file of the service reads TorchScript."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from service.contract.artifact import read_artifact
from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE, Manifest, read_manifest
from service.engine.inputs import LABEL
from service.engine.model import Model
from service.models.prepare import prepared
from service.sampling.latent_map import LatentMap, LatentsError, unpack

#: Concurrent loads corrupt TorchScript's global registry (roboflow/inference, pull request 2373).
_loading = threading.Lock()


def load_model(directory: Path, device: torch.device, manifest: Manifest | None = None) -> Model:
    """Verify and load the model in ``directory``, described by ``manifest`` or by the folder's.

    Raises:
        ContractError: the manifest, the weights or the codes are missing, damaged, or do not match the manifest.
    """
    manifest = manifest or read_manifest(directory)
    if manifest.name != directory.name:
        raise ContractError(directory / MANIFEST_FILE, f"name: {manifest.name} in a folder named {directory.name}")
    payload = read_artifact(directory, manifest.artifact)
    path = directory / manifest.artifact.file
    try:
        with _loading:
            module = torch.jit.load(io.BytesIO(payload), map_location=device)  # type: ignore[no-untyped-call]
            decode = prepared(module.decode, device)
            denoise = prepared(module.denoise, device) if manifest.denoises else None
            encode = prepared(module.encode, device) if "encode" in manifest.capabilities else None
    except Exception as failure:  # torch.jit raises many kinds of errors for an invalid file
        raise ContractError(path, f"not a TorchScript artefact of family {manifest.family}") from failure
    return Model(
        manifest,
        device,
        by_class(decode),
        None if denoise is None else timed_by_class(denoise),
        encode=None if encode is None else by_class(encode),
        latent_map=load_map(directory, manifest),
    )


def by_class(part: Callable[..., Any]) -> Callable[..., Any]:
    """A decoder or encoder of (tensor, label) as a function of (tensor, inputs)."""
    return lambda tensor, inputs: part(tensor, inputs[LABEL])


def timed_by_class(denoise: Callable[..., Any]) -> Callable[..., Any]:
    """A network of (x, t, label) as a function of (x, t, inputs)."""
    return lambda x, t, inputs: denoise(x, t, inputs[LABEL])


def load_map(directory: Path, manifest: Manifest) -> LatentMap | None:
    """The map of the manifest's codes, None if it has none. Raises ContractError."""
    if manifest.latents is None:
        return None
    payload, path = read_artifact(directory, manifest.latents), directory / manifest.latents.file
    try:
        latent_map = unpack(payload, manifest.latent_shape, manifest.null_label)
    except LatentsError as failure:
        raise ContractError(path, str(failure)) from failure
    if not len(latent_map.points):
        raise ContractError(path, "it contains no codes")
    return latent_map
