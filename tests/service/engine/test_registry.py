import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.engine.cost import CostModel
from service.engine.model import Model
from service.engine.registry import Registry, load_registry, pick_device
from service.engine.warmup import Turn, warm_up
from service.settings import Settings
from tests.service.artefacts import write_autoencoder, write_one_shot
from tests.service.engine.conftest import CPU


def test_every_model_is_loaded_and_priced(settings: Settings) -> None:
    registry = load_registry(settings, CPU)
    assert sorted(registry.served) == ["ddpm", "vae"]
    assert registry.refused == {}
    assert all(served.cost.call_ms(4) > 0 for served in registry.served.values())


def test_a_damaged_model_is_refused_alone(weights: Path, settings: Settings) -> None:
    path = next((weights / "vae").glob("*.pt"))
    path.write_bytes(b"")
    registry = load_registry(settings, CPU)
    assert list(registry.served) == ["ddpm"]
    assert path.name in registry.refused["vae"]


def test_models_are_prepared_side_by_side(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, two models: each waits in its warm-up until the other is there too."""
    both = threading.Barrier(2, timeout=30)

    def meet(model: Model, settings: Settings, turn: Turn) -> CostModel:
        both.wait()
        return warm_up(model, settings, turn)

    monkeypatch.setattr("service.engine.registry.warm_up", meet)
    registry = load_registry(settings.model_copy(update={"engine_threads": 2}), CPU)
    assert list(registry.served) == ["ddpm", "vae"]


class NotFinite(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.full((len(z), 1, 8, 8), float("nan"))


class WrongShape(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.zeros(len(z), 1, 4, 4)


class Raises(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return z.reshape(-1, 3, 17)


@pytest.mark.parametrize(
    ("decode", "reason"), [(NotFinite(), "not finite"), (WrongShape(), "shape"), (Raises(), "RuntimeError|shape")]
)
def test_a_model_that_fails_its_warm_up_is_refused(
    weights: Path, settings: Settings, decode: nn.Module, reason: str
) -> None:
    write_one_shot(weights, "bad", decode)
    registry = load_registry(settings, CPU)
    assert sorted(registry.served) == ["ddpm", "vae"]
    assert any(word in registry.refused["bad"] for word in reason.split("|"))


def test_a_folder_without_models_gives_none(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert load_registry(Settings(weights_dir=tmp_path), CPU) == Registry()


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    with pytest.raises(ValueError, match="no CUDA device"):
        pick_device("cuda")


def test_an_encoder_is_warmed_and_priced_for_itself(weights: Path, settings: Settings) -> None:
    write_autoencoder(weights, "coder")
    registry = load_registry(settings, CPU)
    encoder = registry.served["coder"].encoder
    assert encoder is not None
    assert encoder.model.name == "coder/encode"
    assert encoder.cost.call_ms(4) > 0
    assert sorted(registry.served) == ["coder", "ddpm", "vae"]
    assert registry.served["vae"].encoder is None


class NotFiniteEncode(nn.Module):
    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.full((len(image), 4), float("nan"))
        return mean, mean


class WrongShapeEncode(nn.Module):
    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.zeros(len(image), 5)
        return mean, mean


@pytest.mark.parametrize(("encode", "reason"), [(NotFiniteEncode(), "not finite"), (WrongShapeEncode(), "shape")])
def test_a_model_whose_encoder_fails_its_warm_up_is_refused(
    weights: Path, settings: Settings, encode: nn.Module, reason: str
) -> None:
    write_autoencoder(weights, "bad", encode=encode)
    registry = load_registry(settings, CPU)
    assert sorted(registry.served) == ["ddpm", "vae"]
    assert reason in registry.refused["bad"]
