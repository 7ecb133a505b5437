"""Tiny runs on 64 real images: the code of the real ones, in a fraction of a second."""

import dataclasses
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.data import ImageData, load_fashion_mnist
from trainer.loop import TrainingRun

MODELS: dict[str, dict[str, Any]] = {
    "vae": {"family": "vae", "width": 8, "latent": 4, "beta": 1.0, "kl_warmup": 0.5},
    "gan": {"family": "gan", "width": 8, "latent": 4, "real_target": 0.9},
    "ddpm": {
        "family": "ddpm",
        "width": 8,
        "blocks": 1,
        "dropout": 0.1,
        "noise_schedule": {"kind": "linear", "timesteps": 1000},
    },
}

OPTIMIZER: dict[str, Any] = {
    "learning_rate": 1e-3,
    "betas": [0.9, 0.99],
    "weight_decay": 0.01,
    "warmup": 0.25,
    "decay": True,
    "clip": 1.0,
}

SAMPLE = Path(__file__).parents[1] / "data" / "fashion-mnist"

FAMILIES = tuple(MODELS)

MakeConfig = Callable[..., RunConfig]
MakeRun = Callable[..., TrainingRun]
FileSizeLimit = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two threads sum in another order, and are slower than one beside a busy core."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample_folder() -> Path:
    return SAMPLE


def some(whole: ImageData, count: int) -> ImageData:
    """The first ``count`` images of ``whole``."""
    facts = dataclasses.replace(whole.facts, images=count)
    return dataclasses.replace(whole, facts=facts, images=whole.images[:count], labels=whole.labels[:count])


@pytest.fixture(scope="session")
def data(sample_folder: Path) -> ImageData:
    return some(load_fashion_mnist(sample_folder), 64)


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """(family, **replaced fields) -> a config of two epochs of four steps on 64 images."""

    def make(family: str, **replaced: Any) -> RunConfig:
        fields = {
            "dataset": "fashion-mnist",
            "epochs": 2,
            "batch_size": 16,
            "seed": 3,
            "precision": "fp32",
            "label_dropout": 0.2,
            "ema_decay": 0.9,
            "grid_every": 2,
            "optimizer": OPTIMIZER,
            "model": MODELS[family],
        }
        return RunConfig.model_validate(fields | replaced)

    return make


@pytest.fixture(scope="session")
def make_run(make_config: MakeConfig, data: ImageData) -> MakeRun:
    """(family, folder, **replaced fields) -> a run that stands at its start, on the CPU."""

    def make(family: str, folder: Path, **replaced: Any) -> TrainingRun:
        return TrainingRun(make_config(family, **replaced), data, folder, torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def file_size_limit() -> FileSizeLimit:
    """(bytes) -> inside, a write beyond so many bytes of a file fails in the kernel, as on a full disk."""

    @contextmanager
    def limit(most: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


def before_step(run: TrainingRun, step: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``act`` called when ``run`` comes to its step number ``step``, counted from 0."""
    train_step = run.objective.train_step

    def watched(images: Tensor, label: Tensor, progress: float) -> dict[str, Tensor]:
        if run.state.step == step:
            act()
        return train_step(images, label, progress)

    monkeypatch.setattr(run.objective, "train_step", watched)
