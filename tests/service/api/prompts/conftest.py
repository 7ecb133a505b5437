"""One service with tiny diffusers folders, and diffusers' own pipelines of the same folders."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from service.app import create_app
from service.images import Pixels
from tests.service.api.documented import checker
from tests.service.artefacts import write_text
from tests.service.conftest import settings_of
from tests.service.models.diffusers.test_parity import levels_of
from tests.service.models.diffusers.tiny import diffusers_class, write_folder, write_lora

NAMES = ("sd", "inpaint9", "control", "sdxl", "lcm", "classes")


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks run many times slower in several threads on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders ``NAMES``; control has the LoRAs ink, which changes the text encoder too, and chalk. And two models
    of the trainer's, emoji and sketch.
    """
    root = tmp_path_factory.mktemp("prompts") / "weights"
    for name in NAMES:
        write_folder(root / name, name)
    write_lora(root / "control", "ink", seed=1, text=True)
    write_lora(root / "control", "chalk", seed=2)
    write_text(root, "emoji")
    write_text(root, "sketch", sketches=True)
    return root


@pytest.fixture(scope="package")
def studio(weights: Path) -> Iterator[TestClient]:
    """A running service with the folders."""
    settings = settings_of(weights, client_share=1.0)
    with TestClient(create_app(settings)) as running:
        running.event_hooks = {"response": [checker(running.get("/openapi.json").json())]}
        yield running


@pytest.fixture(scope="package")
def pipe_of(weights: Path) -> Callable[[str], Any]:
    """diffusers' own pipeline of a folder by name."""

    def loaded(name: str) -> Any:
        pipe = diffusers_class("DiffusionPipeline").from_pretrained(weights / name, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return cache(loaded)


def generators(*seeds: int) -> list[torch.Generator]:
    """A generator for each picture, as a request with these seeds has."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def require_same(ours: Pixels, images: Any) -> None:
    """The pictures of a pipeline, within one grey level."""
    theirs = levels_of(images)
    assert theirs.std() > 1, "a flat picture would prove nothing"
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(np.float32) - theirs).max() <= 1
