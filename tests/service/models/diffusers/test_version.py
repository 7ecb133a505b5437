from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest

from service.models.diffusers.folder import read_folder
from service.models.diffusers.version import version_of
from tests.service.models.diffusers.tiny import write_folder, write_lora


def flip(path: Path) -> None:
    """Change one byte of the numbers, not the size."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_equal_folders_have_the_same_version(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    again = write_folder(tmp_path / "elsewhere", "sd")
    (again / "README.md").write_text("not part of the pictures")
    assert version_of(read_folder(again)) == version_of(read_folder(folder_of("sd")))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: flip(path / "unet/diffusion_pytorch_model.safetensors"),
        lambda path: flip(path / "text_encoder/model.safetensors"),
        lambda path: (path / "vae/config.json").write_text((path / "vae/config.json").read_text() + " "),
        lambda path: (path / "tokenizer/added_tokens.json").write_text("{}"),
        lambda path: write_lora(path, "ink", seed=1),
    ],
)
def test_any_change_is_another_version(
    folder_of: Callable[[str], Path], tmp_path: Path, change: Callable[[Path], object]
) -> None:
    path = Path(copytree(folder_of("sd"), tmp_path / "sd"))
    before = version_of(read_folder(path))
    change(path)
    assert version_of(read_folder(path)) != before
