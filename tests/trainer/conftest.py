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

from tests.trainer.sample import SAMPLE, first_of_sample
from trainer.compute import precision
from trainer.config import RunConfig, load_preset, presets
from trainer.data import ImageData, load_fashion_mnist
from trainer.data.emoji import load_emoji
from trainer.objectives import build
from trainer.objectives.base import Position
from trainer.run.loop import TrainingRun

FLOW: dict[str, Any] = {"kind": "flow", "timesteps": 1000}
AUTOENCODER: dict[str, Any] = {
    "family": "autoencoder",
    "width": 8,
    "blocks": 1,
    "latent": 2,
    "beta": 1.0,
    "kl_warmup": 0.5,
}
DISCRIMINATOR: dict[str, Any] = {
    "loss": "relativistic",
    "gamma": 0.05,
    "penalty_every": 3,
    "width": 8,
    "weight": 0.5,
    "rate": 4.0,
}
VAE: dict[str, Any] = AUTOENCODER | {
    "family": "vae",
    "latent": 4,
    "prior": "flow",
    "prior_width": 8,
    "prior_layers": 2,
}
RESIDUAL_GAN: dict[str, Any] = {"family": "gan", "network": "residual", "width": 8, "latent": 4}
DDPM: dict[str, Any] = {
    "family": "ddpm",
    "width": 8,
    "blocks": 1,
    "dropout": 0.1,
    "noise_schedule": FLOW,
    "prediction": "velocity",
    "time_density": "logit-normal",
    "steps": 3,
}
TEACHER: dict[str, Any] = {"guidance_scale": 3.0, "largest_t": 0.5}
FEW_STEP: dict[str, Any] = {
    "family": "few-step",
    "base": DDPM | {"solver": "consistency", "steps": 2},
    "score_rate": 4.0,
}

#: Every family, and each of its losses and networks, under the name of its preset or, beside it, of what differs.
MODELS: dict[str, dict[str, Any]] = {
    "autoencoder": AUTOENCODER,
    "autoencoder-adversarial": AUTOENCODER | {"discriminator": DISCRIMINATOR},
    "vae": VAE,
    "vae-adversarial": VAE | {"discriminator": DISCRIMINATOR},
    "vae-standard": AUTOENCODER | {"family": "vae", "latent": 4, "prior": "standard"},
    "gan": RESIDUAL_GAN | {"loss": "relativistic", "gamma": 0.05, "penalty_every": 3},
    "hinge": RESIDUAL_GAN | {"loss": "hinge", "spectral_norm": True},
    "wgan-gp": RESIDUAL_GAN | {"loss": "wasserstein", "gamma": 10.0, "critic_steps": 3},
    "dcgan": RESIDUAL_GAN | {"network": "dcgan", "loss": "bce", "real_target": 0.9},
    "ddpm": DDPM,
    "ddpm-epsilon": DDPM
    | {
        "noise_schedule": {"kind": "linear", "timesteps": 1000},
        "prediction": "epsilon",
        "time_density": "uniform",
    },
    "ddpm-v": DDPM | {"noise_schedule": {"kind": "cosine", "timesteps": 1000}, "prediction": "v", "min_snr_gamma": 5.0},
    "ldm": DDPM | {"family": "ldm", "autoencoder": AUTOENCODER},
    "ddpm-guided": DDPM | {"teacher": TEACHER},
    "ldm-guided": DDPM | {"family": "ldm", "autoencoder": AUTOENCODER, "teacher": TEACHER},
    "few-step": FEW_STEP,
}

#: Whose network a run of this name begins with.
STARTS = {
    "ldm": "autoencoder",
    "ddpm-guided": "ddpm",
    "ldm-guided": "ldm",
    "few-step": "ddpm",
}
#: The same of presets.
PRESET_STARTS = STARTS | {"emoji-control": "emoji", "emoji-few-step": "emoji"}


def base_of(preset: str) -> RunConfig | None:
    """The config of a run that this preset can start from, or None."""
    begun = PRESET_STARTS.get(preset)
    return load_preset(begun, base_of(begun)) if begun else None


OPTIMIZER: dict[str, Any] = {
    "learning_rate": 1e-3,
    "betas": [0.9, 0.99],
    "weight_decay": 0.01,
    "warmup": 0.25,
    "decay": True,
    "clip": 1.0,
}
#: The settings that all tiny runs share.
RUN: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "seed": 3,
    "precision": "fp32",
    "label_dropout": 0.2,
    "ema_decay": 0.9,
    "grid_every": 2,
    "optimizer": OPTIMIZER,
}

VARIANTS = tuple(MODELS)
FAMILIES = ("autoencoder", "vae", "gan", "ddpm", "ldm", "few-step")


def without_dropout(name: str) -> dict[str, Any]:
    """That model of MODELS without dropout, whose masks no two cuts of a batch share."""
    model = MODELS[name]
    base = {"base": model["base"] | {"dropout": 0.0}} if "base" in model else {}
    return model | base | ({"dropout": 0.0} if "dropout" in model else {})


MakeConfig = Callable[..., RunConfig]
MakeRun = Callable[..., TrainingRun]
FileSizeLimit = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two threads sum in another order, and are slower than one beside a busy core."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The precision that a command measures would be another on another machine."""
    choice = precision.Choice("fp32", "tests want the same numbers on every machine")
    monkeypatch.setattr(precision, "fastest", lambda _device: choice)


@pytest.fixture(scope="session")
def sample_folder() -> Path:
    return SAMPLE


def some(whole: ImageData, count: int) -> ImageData:
    """The first ``count`` images of ``whole``."""
    facts = dataclasses.replace(whole.facts, images=count)
    return dataclasses.replace(whole, facts=facts, images=whole.images[:count], labels=whole.labels[:count])


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 64 pictures and labels of each file, for commands that train whole presets."""
    return first_of_sample(tmp_path_factory.mktemp("fashion-mnist"), 64, 64)


@pytest.fixture(scope="session")
def data(sample_folder: Path) -> ImageData:
    return some(load_fashion_mnist(sample_folder), 64)


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """(a name of MODELS, **replaced fields) -> a config of two epochs of four steps on 64 images."""

    def make(name: str, **replaced: Any) -> RunConfig:
        fields = {
            "preset": name if name in presets() else MODELS[name]["family"],
            "start": f"runs/{STARTS[name]}" if name in STARTS else None,
            "dataset": "fashion-mnist",
            **RUN,
            "model": MODELS[name],
        }
        return RunConfig.model_validate(fields | replaced)

    return make


@pytest.fixture(scope="session")
def averages(make_config: MakeConfig) -> dict[str, dict[str, Tensor]]:
    """What the runs of STARTS begin with: the averaged generators of others, which have learnt nothing yet."""
    device = torch.device("cpu")
    states = {
        name: build(make_config(begun), (1, 28, 28), 10, device).generator.state_dict()
        for name, begun in STARTS.items()
    }
    draws = torch.Generator().manual_seed(0)
    for name in ("ddpm-guided", "ldm-guided"):  # a fresh network predicts zero for every class: nothing to guide
        for weight in states[name].values():
            weight += 0.1 * torch.randn(weight.shape, generator=draws)
    return states


@pytest.fixture(scope="session")
def make_run(make_config: MakeConfig, averages: dict[str, dict[str, Tensor]], data: ImageData) -> MakeRun:
    """(a name of MODELS, folder, micro-batches, **replaced fields) -> a run that stands at its start, on the CPU."""

    def make(name: str, folder: Path, accumulate: int = 1, **replaced: Any) -> TrainingRun:
        config, device = make_config(name, **replaced), torch.device("cpu")
        return TrainingRun(config, data, folder, device, averages.get(name), accumulate)

    return make


@pytest.fixture(scope="session")
def finished_runs(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingRun]:
    """A run of every variant, trained to its end without a break."""
    runs = {}
    for name in VARIANTS:
        runs[name] = make_run(name, tmp_path_factory.mktemp(name))
        runs[name].fit()
    return runs


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

    def watched(images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        if run.state.step == step:
            act()
        return train_step(images, label, at)

    monkeypatch.setattr(run.objective, "train_step", watched)


# Text to image

#: A few captioned emoji: the font cut down, and their names.
EMOJI = Path(__file__).parents[1] / "data" / "emoji"

TEXT: dict[str, Any] = {
    "family": "text",
    "patch": 4,
    "width": 32,
    "wide": 32,
    "blocks": 1,
    "vocabulary": 256,
    "tokens": 12,
    "context": 32,
    "text_layers": 1,
    "dropout": 0.0,
    "noise_schedule": FLOW,
    "prediction": "x_start",
    "time_density": "logit-normal",
    "steps": 2,
}

MakeTextConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def emoji() -> ImageData:
    return load_emoji(EMOJI)


@pytest.fixture(scope="session")
def make_text_config() -> MakeTextConfig:
    """(**replaced fields) -> a config of two epochs of three steps on the committed emoji."""

    def make(**replaced: Any) -> RunConfig:
        fields = {
            "preset": "emoji",
            "dataset": "emoji",
            **RUN,
            "model": TEXT,
        }
        return RunConfig.model_validate(fields | replaced)

    return make


@pytest.fixture(scope="session")
def text_run(
    make_text_config: MakeTextConfig, emoji: ImageData, tmp_path_factory: pytest.TempPathFactory
) -> TrainingRun:
    """A run that is trained to its end."""
    run = TrainingRun(make_text_config(), emoji, tmp_path_factory.mktemp("text"), torch.device("cpu"))
    run.fit()
    return run
