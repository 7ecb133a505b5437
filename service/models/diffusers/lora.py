"""LoRAs (Hu et al., arXiv:2106.09685): one per row, several in one forward pass.

PEFT's layers take the name of an adapter per row. A forward pre-hook on each layer passes the names of the current
call, and a hook on each adapter's last layer multiplies the rows by their scales.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from service.engine.rows import Adapter
from service.models.diffusers.files import FolderError, Weights
from service.models.diffusers.folder import DiffusersFolder
from service.models.diffusers.libraries import class_of

#: PEFT's name of a row without an adapter.
BASE = "__base__"
MAX_RANK = 1024
#: What a file may say of itself; target modules are read from its tensors. Patterns are regular expressions to PEFT.
_METADATA = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")
_MODULE = re.compile(r"[A-Za-z0-9_.]{1,200}")
_OTHER_METHODS = ("dora_scale", "lora_magnitude", "hada_", "lokr_", "oft_", "lora_embedding")


@dataclass(frozen=True)
class _Rows:
    """The adapters of one call: a name per row, and by name the scales of its rows, (rows,), absent if all are 1."""

    names: list[str]
    scales: Mapping[str, Tensor]


class Adapters:
    """The LoRAs that are loaded into a folder's networks: `names`, sorted."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        # PEFT's names are keys of modules, which may not contain a dot.
        self._inner = {name: f"lora{index}" for index, name in enumerate(self.names)}
        # Calls of several threads do not see each other's rows.
        self._rows: ContextVar[_Rows | None] = ContextVar("rows", default=None)

    @contextmanager
    def rows(self, adapters: Sequence[Adapter | None], count: int, device: torch.device) -> Iterator[None]:
        """Within it, row i of a call of `count` rows has the LoRA `adapters[i]`; () is no LoRA in any row.

        Raises:
            KeyError: the folder has no LoRA with that name.
            ValueError: there are not `count` adapters.
        """
        if adapters and len(adapters) != count:
            raise ValueError(f"{len(adapters)} adapters for {count} rows")
        token = self._rows.set(self._of(adapters or [None] * count, device) if self.names or adapters else None)
        try:
            yield
        finally:
            self._rows.reset(token)

    def inner(self, name: str) -> str:
        """The name that PEFT knows a LoRA by."""
        return self._inner[name]

    def hook(self, network: nn.Module) -> None:
        """Let every layer of `network` with a LoRA ask for the rows of the current call."""
        from peft.tuners.lora import LoraLayer

        for module in network.modules():
            if isinstance(module, LoraLayer):
                module.register_forward_pre_hook(self._pass_names, with_kwargs=True)
                for name, last in module.lora_B.items():
                    last.register_forward_hook(self._scale(name))

    def _of(self, adapters: Sequence[Adapter | None], device: torch.device) -> _Rows:
        names = [BASE if adapter is None else self._inner[adapter.name] for adapter in adapters]
        scales: dict[str, list[float]] = {}
        for name, adapter in zip(names, adapters, strict=True):
            if adapter is not None:
                scales.setdefault(name, []).append(adapter.scale)
        scaled = {name: values for name, values in scales.items() if any(value != 1.0 for value in values)}
        return _Rows(names, {name: torch.tensor(values, device=device) for name, values in scaled.items()})

    def _pass_names(self, _layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        rows = self._rows.get()
        names = [BASE] * len(args[0]) if rows is None else rows.names
        return args, {**kwargs, "adapter_names": names}

    def _scale(self, name: str) -> Any:
        def scale(_layer: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
            rows = self._rows.get()
            scales = None if rows is None else rows.scales.get(name)
            if scales is None:
                return None
            return output * scales.to(output.dtype).reshape(-1, *[1] * (output.ndim - 1))

        return scale


def load_loras(
    folder: DiffusersFolder, unet: Any, encoders: Sequence[Any], device: torch.device, dtype: torch.dtype
) -> Adapters:
    """Load every LoRA of `folder` into the UNet and, where a file has tensors for them, the text encoders.

    Raises:
        FolderError: a file is no LoRA, is of another method (DoRA, LoHa), or does not fit the networks.
    """
    adapters = Adapters(tuple(folder.loras))
    if not adapters.names:
        return adapters
    parts = {"unet": unet, **dict(zip(("text_encoder", "text_encoder_2"), encoders, strict=False))}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)  # of the second LoRA
        for name, weights in folder.loras.items():
            _load(folder, parts, weights, adapters.inner(name))
    for network in parts.values():
        adapters.hook(network)
        network.requires_grad_(False)
        nn.Module.to(network.eval(), device=device, dtype=dtype)
    return adapters


def _load(folder: DiffusersFolder, parts: Mapping[str, Any], weights: Weights, inner: str) -> None:
    mixin = class_of("diffusers.loaders", f"StableDiffusion{'XL' if folder.kind == 'xl' else ''}LoraLoaderMixin")
    state, metadata = _read(weights)
    try:
        state, alphas = mixin.lora_state_dict(state, unet_config=parts["unet"].config)
        _check_state(weights, state, parts)
        for prefix, network in parts.items():
            if not any(key.startswith(f"{prefix}.") for key in state):
                continue
            known = None if alphas else _metadata_of(weights, metadata, prefix)
            if prefix == "unet":
                mixin.load_lora_into_unet(state, alphas, network, inner, metadata=known)
            else:
                mixin.load_lora_into_text_encoder(state, alphas, network, prefix, adapter_name=inner, metadata=known)
            _check_all_loaded(weights, state, prefix, network, inner)
    except FolderError:
        raise
    except Exception as failure:  # diffusers and PEFT raise many kinds for a file of another model
        raise FolderError(weights.path, f"does not fit the model: {type(failure).__name__}: {failure}") from failure


def _read(weights: Weights) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a LoRA's file, and what it says of its ranks and scales."""
    for name in weights.shapes:
        if any(method in name for method in _OTHER_METHODS) or name.endswith((".diff", ".diff_b")):
            raise FolderError(weights.path, f"{name}: only plain LoRAs are supported")
    from safetensors import safe_open

    with safe_open(weights.path, framework="pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
        state = {name: file.get_tensor(name).clone() for name in weights.shapes}
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise FolderError(weights.path, "lora_adapter_metadata: not JSON") from failure
    return state, metadata if isinstance(metadata, dict) else {}


def _check_state(weights: Weights, state: Mapping[str, Tensor], parts: Mapping[str, Any]) -> None:
    if not state:
        raise FolderError(weights.path, "no LoRA")
    for key, tensor in state.items():
        if key.split(".")[0] not in parts:
            raise FolderError(weights.path, f"{key} is of no network of the folder")
        if min(tensor.shape[:2], default=0) > MAX_RANK:
            raise FolderError(weights.path, f"{key}: the rank is more than {MAX_RANK}")


def _metadata_of(weights: Weights, metadata: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    """The part of a file's metadata for the network `prefix`, prefixed as diffusers expects it; None if it has none."""
    known = {name: metadata.get(f"{prefix}.{name}") for name in (*_METADATA, "target_modules")}
    if known["r"] is None:
        return None
    modules = known["target_modules"]
    patterns = [known[name] or {} for name in ("rank_pattern", "alpha_pattern")]
    names = [*modules, *patterns[0], *patterns[1]] if isinstance(modules, list) else [None]
    numbers = [known["r"], known["lora_alpha"] or 1, *patterns[0].values(), *patterns[1].values()]
    fits = all(isinstance(name, str) and _MODULE.fullmatch(name) for name in names)
    if not fits or not all(isinstance(number, int | float) and 0 < number <= 1e6 for number in numbers):
        raise FolderError(
            weights.path, f"lora_adapter_metadata: {prefix} has other values than ranks, scales and names"
        )
    return {f"{prefix}.{name}": value for name, value in known.items() if value is not None}


def _check_all_loaded(weights: Weights, state: Mapping[str, Tensor], prefix: str, network: Any, inner: str) -> None:
    """Raise FolderError unless the network has every pair of matrices of the file: diffusers only logs the others."""
    from peft.tuners.lora import LoraLayer

    loaded = sum(isinstance(module, LoraLayer) and inner in module.lora_A for module in network.modules())
    pairs = sum(key.startswith(f"{prefix}.") and key.endswith(("lora_A.weight", "lora.down.weight")) for key in state)
    if loaded != pairs:
        raise FolderError(weights.path, f"{pairs} matrices for the {prefix}, of which {loaded} fit")
