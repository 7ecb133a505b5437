"""Adding a model to a weights folder: it is checked as the service checks it, and renamed into place when it passes."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from service.contract.manifest import MANIFEST_FILE, NAME, Manifest, is_model_name
from service.contract.records import DIFFUSERS_FILE
from service.contract.signature import ANYONE
from service.models.diffusers.files import require_data, scan
from service.models.diffusers.folder import lora_file, read_folder, with_lora
from service.models.diffusers.load import check_networks
from service.models.folders import Unusable, is_diffusers, model_directories, read_any_manifest
from service.models.golden import check_golden
from service.models.registry import load, unusable

#: Temporary folders begin so: the service does not read hidden ones.
_PREFIX = ".add-"


def add_folder(source: Path, weights: Path, name: str | None = None, *, link: bool = False) -> Manifest:
    """Copy the model in the folder ``source`` to ``weights``/``name``, or link to it; returns its manifest.

    ``name`` is by default that of ``source``. A folder in diffusers' format is checked before it is copied; links that
    leave it become files. A failure leaves nothing in ``weights``.

    Raises:
        Unusable: the model cannot be served, or the name is invalid or taken.
        OSError: the folder cannot be read, copied or linked.
    """
    target = _new_folder(source, weights, name)
    own_format = not is_diffusers(source)
    with unusable(source):
        if not own_format:
            check_networks(read_folder(source, leaving=not link))
    with TemporaryDirectory(dir=target.parent, prefix=_PREFIX) as temporary:
        placed = Path(temporary, target.name)
        if link:
            placed.symlink_to(source.resolve())
        else:
            _copy(source, _files_of(source) if own_format else scan(source.resolve(), leaving=True), placed)
        manifest = _checked(placed, source)
        if link:  # renaming a link could replace another
            target.symlink_to(source.resolve())
        else:
            placed.rename(target)
    return manifest


def add_lora(file: Path, weights: Path, model: str, name: str | None = None) -> Path:
    """Copy the LoRA ``file`` into the folder of ``model``, and return its path there.

    ``name`` is by default that of ``file``.

    Raises:
        Unusable: the model takes no LoRAs, the file is not one of this model, or the name is invalid or taken.
        OSError: the file cannot be read or copied.
    """
    directory = weights / model
    if not is_model_name(model) or not is_diffusers(directory):
        known = [each for each, path in model_directories(weights).items() if is_diffusers(path)]
        raise Unusable(f"{directory}: not a folder in diffusers' format; {weights} has {', '.join(known) or 'none'}")
    with unusable(directory):
        folder, name = read_folder(directory), name or file.stem
        target = lora_file(folder.path, name)
        if os.path.lexists(target):
            raise Unusable(f"{target}: exists already; choose another name with --name, or delete it")
        require_data(file)
        check_networks(with_lora(folder, name, file))
    target.parent.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=_PREFIX) as temporary:
        Path(shutil.copyfile(file, Path(temporary, target.name))).rename(target)
    return target


def _new_folder(source: Path, weights: Path, name: str | None) -> Path:
    """The path of the added folder, which does not exist. Raises Unusable."""
    if not source.exists():
        raise Unusable(f"{source}: no such folder")
    if not source.is_dir():
        raise Unusable(
            f"{source}: not a folder; a LoRA needs --lora-of MODEL, and any other file must be saved by save_pretrained"
        )
    if not any((source / file).exists() for file in (DIFFUSERS_FILE, MANIFEST_FILE)):
        raise Unusable(f"{source}: neither {DIFFUSERS_FILE} nor {MANIFEST_FILE}, so it is not a model")
    if not weights.is_dir():
        raise Unusable(f"{weights}: no such folder; it is that of the models, see --weights")
    name = name or source.resolve().name
    if not is_model_name(name):
        raise Unusable(f"{name[:64]!r} is not a model's name ({NAME.pattern}); choose one with --name")
    if os.path.lexists(weights / name):
        raise Unusable(f"{weights / name}: exists already; choose another name with --name, or delete it")
    return weights.resolve() / name


def _files_of(folder: Path) -> list[str]:
    """The files of an exported model's folder, which has no folders in it."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _copy(source: Path, files: Iterable[str], target: Path) -> None:
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _checked(placed: Path, source: Path) -> Manifest:
    """The manifest of the model in ``placed``; errors name ``source``, from which it comes. Raises Unusable."""
    try:
        with unusable(placed):
            manifest = read_any_manifest(placed, ANYONE)  # the service checks whose it is
            if manifest.pipeline is None:
                check_golden(load(placed, torch.device("cpu"), manifest))
            return manifest
    except Unusable as failure:
        raise Unusable(str(failure).replace(str(placed), str(source))) from None
