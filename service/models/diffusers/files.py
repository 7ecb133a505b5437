"""The files of a diffusers folder: every name is checked, JSON is bounded, and weights are safetensors only."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.contract.files import ContractError, open_regular_file
from service.contract.manifest import MAX_REASON

MAX_JSON_BYTES = 1 << 20
#: A vocabulary of CLIP has 1 MB and its tokenizer.json 4 MB.
MAX_TOKENIZER_BYTES = 16 << 20
#: A header has about 100 bytes per tensor; SDXL's UNet has 1,680 tensors.
MAX_HEADER_BYTES = 8 << 20
MAX_FILES = 2_000
MAX_DEPTH = 3

PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"}
CODE = {".py", ".pyc", ".so"}
#: Keys with which a configuration asks for code that is not part of the libraries, or for other files.
REMOTE_CODE = ("auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines", "quantization_config")
#: Bytes of a number by the name that safetensors gives its type.
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class FolderError(ContractError):
    """A diffusers folder cannot be served; `str()` is one line that names the file and any field."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, " ".join(reason.split())[:MAX_REASON])


@dataclass(frozen=True)
class JsonFile:
    """A JSON object: its bytes, for a strict parser, and its fields."""

    path: Path
    text: bytes
    fields: dict[str, Any]


@dataclass(frozen=True)
class Weights:
    """One safetensors file by its header: `shapes` of its tensors by name, `size` of the file in bytes."""

    path: Path
    size: int
    shapes: dict[str, tuple[int, ...]]

    @property
    def parameters(self) -> int:
        """How many numbers the file has."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def scan(root: Path, *, leaving: bool = False) -> frozenset[str]:
    """The relative paths of the regular files below `root`, which must be resolved. Hidden entries are never opened.

    Raises:
        FolderError: a pickle, code, a link that leaves `root` (unless `leaving`), a pipe or device, or too many files
            or levels.
    """
    found: set[str] = set()
    waiting = [(root, 0)]
    while waiting:
        directory, depth = waiting.pop()
        for path in _entries(directory):
            _require_target(path, None if leaving else root)
            if path.is_dir():
                waiting.append((path, _deeper(path, depth)))
                continue
            require_data(path)
            found.add(path.relative_to(root).as_posix())
            if len(found) > MAX_FILES:
                raise FolderError(root, f"more than {MAX_FILES} files")
    return frozenset(found)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(Path(directory, name) for name in os.listdir(directory) if not name.startswith("."))  # noqa: PTH208
    except OSError as failure:
        raise FolderError(directory, failure.strerror or "cannot be read") from failure


def _deeper(path: Path, depth: int) -> int:
    if depth == MAX_DEPTH:
        raise FolderError(path, f"more than {MAX_DEPTH} levels of folders")
    return depth + 1


def _require_target(path: Path, root: Path | None) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as failure:  # RuntimeError: a loop of links
        raise FolderError(path, "a symbolic link to nothing") from failure
    if root is not None and not target.is_relative_to(root):
        raise FolderError(path, "a symbolic link that leaves the folder; copy the files (genserve add, or cp -rL)")


def require_data(path: Path) -> None:
    """Raise FolderError where `path` is no regular file, or one that runs code: a pickle, or a program."""
    if not path.is_file():
        raise FolderError(path, "not a regular file")
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise FolderError(path, "a pickle runs code when it is opened; keep safetensors only (safe_serialization=True)")
    if suffix in CODE:
        raise FolderError(path, "code of a folder is never run; remove the file")


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> JsonFile:
    """A JSON object of at most `limit` bytes. Raises FolderError, also where a key asks for remote code."""
    text = _read(path, limit)
    try:
        fields = json.loads(text)
    except RecursionError as failure:
        raise FolderError(path, "nested too deeply") from failure
    except ValueError as failure:  # also where it is not UTF-8
        raise FolderError(path, f"not JSON: {failure}") from failure
    if not isinstance(fields, dict):
        raise FolderError(path, "not a JSON object")
    for key in REMOTE_CODE:
        if fields.get(key):
            raise FolderError(path, f"{key}: remote code and files of other formats are not supported")
    return JsonFile(path, text, fields)


def _read(path: Path, limit: int) -> bytes:
    try:
        with open_regular_file(path, follow_links=True) as file:
            text = file.read(limit + 1)
    except OSError as failure:
        raise FolderError(path, failure.strerror or "cannot be read") from failure
    if len(text) > limit:
        raise FolderError(path, f"larger than {limit} bytes")
    return text


def read_weights(path: Path) -> Weights:
    """A safetensors file by its header; its numbers are not read.

    Raises:
        FolderError: the header is invalid, or the file is shorter or longer than its tensors.
    """
    try:
        with open_regular_file(path, follow_links=True) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
                raise FolderError(path, "not a safetensors file")
            header = file.read(length)
    except OSError as failure:
        raise FolderError(path, failure.strerror or "cannot be read") from failure
    shapes, end = _tensors(path, header)
    if 8 + length + end != size:
        raise FolderError(path, f"{size} bytes, but its tensors need {8 + length + end}; copy the file again")
    return Weights(path, size, shapes)


def _tensors(path: Path, header: bytes) -> tuple[dict[str, tuple[int, ...]], int]:
    """The shapes of the tensors of a header, and where their numbers end, in bytes."""
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
        end = sum(math.prod(shapes[name]) * WIDTHS[entry["dtype"]] for name, entry in entries.items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as failure:
        raise FolderError(path, "not a safetensors file, or one with a type that is not supported") from failure
    if not shapes or any(side < 0 for shape in shapes.values() for side in shape):
        raise FolderError(path, "no tensors")
    return shapes, end
