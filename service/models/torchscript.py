"""Loading TorchScript artefacts as models. No other file of the service reads TorchScript."""

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from service.contract.artifact import read_artifact
from service.contract.files import ContractError
from service.contract.manifest import Manifest, read_manifest
from service.engine.inputs import LABEL
from service.engine.model import Model
from service.models.folders import check_name
from service.models.prepare import prepared
from service.models.text_model import functions, text_model
from service.sampling.latent_map import LatentMap, LatentsError, unpack

#: Concurrent loads corrupt TorchScript's global registry (roboflow/inference, pull request 2373).
_loading = threading.Lock()


def load_model(directory: Path, device: torch.device, manifest: Manifest | None = None) -> Model:
    """Verify and load the model in ``directory``, described by ``manifest`` or by the folder's.

    Raises:
        ContractError: the manifest or one of its files is missing, damaged, or does not match the manifest.
    """
    manifest = manifest or read_manifest(directory)
    check_name(directory, manifest)
    payload = read_artifact(directory, manifest.artifact)
    path = directory / manifest.artifact.file
    try:
        with _loading:
            module = torch.jit.load(io.BytesIO(payload), map_location=device)  # type: ignore[no-untyped-call]
            if manifest.inference_dtype == "float32":
                module.float()  # the file may hold float16, which is half as large
            parts = {name: prepared(getattr(module, name), device) for name in _part_names(manifest)}
    except Exception as failure:  # torch.jit raises many kinds of errors for an invalid file
        raise ContractError(path, f"not a TorchScript artefact of family {manifest.family}") from failure
    if manifest.text is not None:
        return text_model(directory, manifest, device, functions(parts))
    return Model(
        manifest,
        device,
        by_class(parts["decode"]),
        timed_by_class(parts["denoise"]) if "denoise" in parts else None,
        encode=by_class(parts["encode"]) if "encode" in parts else None,
        latent_map=load_map(directory, manifest),
    )


def _part_names(manifest: Manifest) -> Iterator[str]:
    yield "decode"
    if manifest.denoises:
        yield "denoise"
    if "encode" in manifest.capabilities:
        yield "encode"
    if manifest.text is not None:
        yield "encode_text"


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
