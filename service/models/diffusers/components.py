"""The components of a diffusers folder: configurations, weights and tokenizers, checked and not yet loaded."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from service.models.diffusers.configs import C, parse
from service.models.diffusers.files import MAX_TOKENIZER_BYTES, FolderError, Weights, read_json, read_weights, scan

#: A file that an index names: no separators, so that no index leads out of its folder.
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.safetensors")
#: The stem of weights by library.
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}


@dataclass(frozen=True)
class Source:
    """A folder on the disk: its resolved path, and the relative paths of the files in it."""

    root: Path
    files: frozenset[str]

    def names_in(self, folder: str) -> list[str]:
        """The names of the files directly in `folder`."""
        inside = (name.removeprefix(f"{folder}/") for name in self.files if name.startswith(f"{folder}/"))
        return sorted(name for name in inside if "/" not in name)

    def folders(self) -> list[str]:
        """The names of the folders directly below the root that have files directly in them."""
        return sorted({name.split("/")[0] for name in self.files if name.count("/") == 1})


@dataclass(frozen=True)
class Component(Generic[C]):
    """A network: `config` is what the service reads, `fields` all that the library reads. Weights may be sharded."""

    path: Path
    class_name: str
    config: C
    fields: dict[str, Any]
    weights: tuple[Weights, ...]


def open_source(path: Path, *, leaving: bool = False) -> Source:
    """The files of the folder `path`, which may itself be a link. Raises FolderError as `files.scan`."""
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError) as failure:
        raise FolderError(path, "no such folder") from failure
    if not root.is_dir():
        raise FolderError(path, "not a folder")
    return Source(root, scan(root, leaving=leaving))


def read_component(source: Source, folder: str, class_name: str, library: str, kind: type[C]) -> Component[C]:
    """The network in `folder`, which must be of `class_name`. Raises FolderError."""
    if f"{folder}/adapter_config.json" in source.files:
        raise FolderError(source.root / folder / "adapter_config.json", "adapters belong into loras/")
    file = read_json(source.root / folder / "config.json")
    given = (
        file.fields.get("_class_name") if library == "diffusers" else (file.fields.get("architectures") or [None])[0]
    )
    if given not in (class_name, None) or (given is None and library == "diffusers"):
        raise FolderError(file.path, f"the class is {given}, but model_index.json says {class_name}")
    weights = tuple(read_weights(source.root / folder / name) for name in _weight_files(source, folder, STEMS[library]))
    return Component(file.path.parent, class_name, parse(kind, file), file.fields, weights)


def _weight_files(source: Source, folder: str, stem: str) -> list[str]:
    """The files of a component's weights: one file, or shards by an index, or those of a variant such as fp16."""
    present = set(source.names_in(folder))
    for name in (f"{stem}.safetensors", *_variants(present, stem)):
        if name in present:
            return [name]
    for name in (f"{stem}.safetensors.index.json", *_variants(present, stem, ".index")):
        if name in present:
            return _shards(source.root / folder / name, present)
    shards = [name for name in present if name.startswith(f"{stem}-")]
    lacks = f"{stem}.safetensors.index.json is missing beside its shards" if shards else f"no {stem}.safetensors"
    raise FolderError(source.root / folder, lacks)


def _variants(present: set[str], stem: str, kind: str = "") -> list[str]:
    pattern = re.compile(
        re.escape(stem) + r"(\.[a-z0-9]{1,16}\.safetensors|\.safetensors\.index\.[a-z0-9]{1,16}\.json)"
    )
    ending = ".json" if kind else ".safetensors"
    return sorted(name for name in present if pattern.fullmatch(name) and name.endswith(ending))


def _shards(index: Path, present: set[str]) -> list[str]:
    weight_map = read_json(index).fields.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FolderError(index, "weight_map: not an object")
    names = set(weight_map.values()) if all(isinstance(name, str) for name in weight_map.values()) else {""}
    for name in sorted(names):
        if not _FILE.fullmatch(name):
            raise FolderError(index, f"weight_map: {name!r} is not the name of a safetensors file")
        if name not in present:
            raise FolderError(index, f"weight_map: {name} is missing")
    return sorted(names)


def check_tokenizer(source: Source, folder: str) -> Path:
    """The path of the tokenizer in `folder`. Raises FolderError where a file is missing, too large or asks for code."""
    present, path = set(source.names_in(folder)), source.root / folder
    if "tokenizer.json" not in present and not {"vocab.json", "merges.txt"} <= present:
        raise FolderError(path, "neither tokenizer.json nor vocab.json with merges.txt")
    for name in sorted(present):
        if name.endswith(".json"):
            read_json(path / name, MAX_TOKENIZER_BYTES)
        elif (path / name).stat().st_size > MAX_TOKENIZER_BYTES:
            raise FolderError(path / name, f"larger than {MAX_TOKENIZER_BYTES} bytes")
    return path
