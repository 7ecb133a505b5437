import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from service.models.diffusers.files import FolderError
from service.models.diffusers.folder import read_folder
from service.models.diffusers.load import check_networks, load_networks
from service.models.diffusers.networks import Networks
from tests.service.models.diffusers.tiny import diffusers_class, write_folder

CPU = torch.device("cpu")


def load(path: Path) -> Networks:
    """The networks of a folder. A check of it, which reads no numbers, has the same outcome."""
    folder = read_folder(path)
    try:
        networks = load_networks(folder, CPU, torch.float32)
    except FolderError as failure:
        with pytest.raises(FolderError, match=f"^{re.escape(str(failure))}$"):
            check_networks(folder)
        raise
    check_networks(folder)
    return networks


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks run many times slower in several threads on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny folder by name, written once; tests that change one copy it."""
    root = tmp_path_factory.mktemp("diffusers")
    return cache(lambda name: write_folder(root / name, name))


@pytest.fixture(scope="session")
def networks_of(folder_of: Callable[[str], Path]) -> Callable[[str], Networks]:
    """The loaded networks of a tiny folder by name."""
    return cache(lambda name: load(folder_of(name)))


@pytest.fixture(scope="session")
def pipe_of(folder_of: Callable[[str], Path]) -> Callable[[str], Any]:
    """diffusers' own pipeline of a tiny folder by name."""

    def loaded(name: str) -> Any:
        path = folder_of(name)
        pipe = diffusers_class("DiffusionPipeline").from_pretrained(path, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return cache(loaded)
