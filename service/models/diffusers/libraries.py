"""The optional libraries, imported when the first folder is loaded: a service without diffusers folders needs none."""

import importlib
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from service.contract.files import ContractError

NEEDED = ("diffusers", "transformers", "peft", "safetensors")
INSTALL = "pip install 'genserve[diffusers]'"


def require_libraries(folder: Path) -> None:
    """Raise ContractError with the command that installs the libraries, where one is missing."""
    for name in NEEDED:
        if find_spec(name) is None:
            raise ContractError(folder, f"a diffusers folder needs the package {name}: {INSTALL}")


@cache
def class_of(library: str, name: str) -> Any:
    """A class of diffusers or transformers by name, which must be one that `pipelines` allows."""
    _make_torchvision_importable()
    return getattr(importlib.import_module(library), name)


def _make_torchvision_importable() -> None:
    """transformers imports torchvision where it is installed, and fails if that import does.

    The Linux wheel of torchvision on PyPI is a CUDA build: beside a CPU-only torch its operators do not load. No
    network here uses them; declaring the two schemas that its Python side registers is enough.
    """
    if find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as failure:
        if "torchvision::nms" not in str(failure):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # the second import would return the half-imported package
        for name in ("torchvision::nms", "torchvision::qnms"):
            torch.library.define(name, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
