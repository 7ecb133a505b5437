"""Loading the networks of a checked folder: from its safetensors files alone, without a network connection."""

import threading
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from service.models.diffusers.autoencoder import Autoencoder
from service.models.diffusers.components import Component
from service.models.diffusers.files import FolderError
from service.models.diffusers.folder import DiffusersFolder
from service.models.diffusers.libraries import class_of, require_libraries
from service.models.diffusers.lora import load_loras
from service.models.diffusers.networks import Denoiser, Networks
from service.models.diffusers.text import TextEncoder, load_tokenizer

#: Initialisers of weights that a file replaces: for a large network they take longer than reading it.
_INITIALISERS = {Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_, Tensor.erfinv_, Tensor.clamp_}
_import_lock = threading.Lock()


class _Uninitialised(TorchFunctionMode):
    """Within it, in this thread, initialisers leave memory as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _INITIALISERS else func(*args, **(kwargs or {}))


def load_networks(folder: DiffusersFolder, device: torch.device, dtype: torch.dtype) -> Networks:
    """The networks of `folder` on `device`, computing in `dtype` (a VAE that overflows in float16 keeps float32).

    Raises:
        ContractError: a library is missing; or FolderError: the weights do not fit the configuration.
    """
    _import_libraries(folder.path)
    unet = _load(folder.unet, "diffusers", device, dtype)
    encoders = [_load(text.encoder, "transformers", device, dtype) for text in folder.texts]
    tokenizers = [load_tokenizer(text) for text in folder.texts]
    controls = {name: _load(control, "diffusers", device, dtype) for name, control in folder.controlnets.items()}
    adapters = load_loras(folder, unet, encoders, device, dtype)
    text = None
    if encoders:
        text = TextEncoder(tokenizers, encoders, adapters, xl=folder.kind == "xl", zero_negative=_zero_negative(folder))
    return Networks(
        folder=folder,
        device=device,
        dtype=dtype,
        scheduler=_scheduler(folder),
        denoiser=Denoiser(unet, controls, adapters, dtype),
        text=text,
        autoencoder=_autoencoder(folder, device, dtype),
    )


def check_networks(folder: DiffusersFolder) -> None:
    """Check that the files of `folder` fit its configurations, with their headers alone: no memory for their numbers.

    Raises:
        ContractError: as `load_networks`.
    """
    _import_libraries(folder.path)
    unet = _check(folder.unet, "diffusers")
    encoders = [_check(text.encoder, "transformers") for text in folder.texts]
    for control in folder.controlnets.values():
        _check(control, "diffusers")
    if folder.vae is not None:
        _check(folder.vae, "diffusers")
    for text in folder.texts:
        load_tokenizer(text)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter", UserWarning)
        load_loras(folder, unet, encoders, torch.device("meta"), torch.float32)


def _import_libraries(path: Path) -> None:
    require_libraries(path)
    with _import_lock:  # two threads that import diffusers at once meet its half-imported modules
        class_of("diffusers", "UNet2DModel")
        class_of("transformers", "CLIPTextModel")


def _autoencoder(folder: DiffusersFolder, device: torch.device, dtype: torch.dtype) -> Autoencoder | None:
    if folder.vae is None:
        return None
    overflows = dtype == torch.float16 and folder.vae.config.force_upcast and folder.kind == "xl"
    kept = torch.float32 if overflows else dtype
    return Autoencoder(_load(folder.vae, "diffusers", device, kept), folder.vae.config, kept)


def _zero_negative(folder: DiffusersFolder) -> bool:
    return folder.kind == "xl" and bool(folder.index.get("force_zeros_for_empty_prompt", True))


def _load(part: Component[Any], library: str, device: torch.device, dtype: torch.dtype) -> Any:
    network = _built(part, library)
    _fill(network, part, dtype)
    network.requires_grad_(False)
    return network.eval().to(device=device)


def _check(part: Component[Any], library: str) -> Any:
    """The network without numbers. Raises FolderError where its files do not fit it."""
    with torch.device("meta"):
        network = _built(part, library)
        shapes = {name: torch.empty(shape) for file in part.weights for name, shape in file.shapes.items()}
    _require_fit(_renamed(shapes, network), network, part)
    return network


def _built(part: Component[Any], library: str) -> Any:
    """The network that a configuration describes. Raises FolderError where there is none."""
    try:
        with _Uninitialised():
            return _build(part, library)
    except (RuntimeError, TypeError, ValueError, KeyError, ZeroDivisionError, IndexError) as failure:
        raise FolderError(part.path / "config.json", f"{type(failure).__name__}: {failure}") from failure


def _build(part: Component[Any], library: str) -> Any:
    kind = class_of(library, part.class_name)
    if library == "diffusers":
        return kind.from_config(part.fields)
    # Private keys and the choice of an attention may name code of others.
    fields = {key: value for key, value in part.fields.items() if not key.startswith(("_", "attn_"))}
    return kind(kind.config_class.from_dict(fields))


def _fill(network: nn.Module, part: Component[Any], dtype: torch.dtype) -> None:
    """Give `network` the numbers of its files. Raises FolderError where they do not fit.

    They are copied: a file that is mapped into memory and then replaced would end the process.
    """
    state = {name: tensor.to(dtype, copy=True) for file in part.weights for name, tensor in _tensors(file.path).items()}
    state = _renamed(state, network)
    _require_fit(state, network, part)
    network.load_state_dict(state, assign=True)


def _require_fit(state: dict[str, Tensor], network: nn.Module, part: Component[Any]) -> None:
    """Raise FolderError where a tensor is missing, unknown, or of another shape."""
    expected = network.state_dict()
    path = part.weights[0].path
    for name in sorted(expected.keys() ^ state.keys()):
        raise FolderError(path, f"{name} is {'missing' if name in expected else 'not part of config.json'}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise FolderError(path, f"{name} is {tuple(tensor.shape)}, not {tuple(expected[name].shape)}")


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except Exception as failure:  # safetensors' errors share no public class
        raise FolderError(path, f"cannot be read: {failure}") from failure


def _renamed(state: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """`state` by today's names: older versions wrote other names of attention layers and of text encoders."""
    if hasattr(network, "_fix_state_dict_keys_on_load"):
        network._fix_state_dict_keys_on_load(state)
        return state
    state = {name: tensor for name, tensor in state.items() if not name.endswith("embeddings.position_ids")}
    if hasattr(network, "text_model"):
        return state
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}


def _scheduler(folder: DiffusersFolder) -> dict[str, Any]:
    """The scheduler's configuration as the pipeline uses it: the class's defaults, and what the pipeline corrects."""
    pipeline = folder.pipeline
    name = "DDIMScheduler" if pipeline == "DDIMPipeline" else folder.scheduler.class_name
    config = dict(class_of("diffusers", name).from_config(dict(folder.scheduler_fields)).config)
    config["_class_name"] = name
    if folder.kind != "text" or pipeline.startswith("LatentConsistency"):
        return config
    if config.get("steps_offset", 1) != 1:
        config["steps_offset"] = 1
    if pipeline != "StableDiffusionInpaintPipeline" and config.get("clip_sample"):
        config["clip_sample"] = False
    return config
