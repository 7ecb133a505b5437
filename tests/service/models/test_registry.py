import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.engine.cost import CostModel
from service.engine.model import Model
from service.models.registry import Registry, load_registry, pick_device
from service.models.torchscript import load_model
from service.models.warmup import RunExclusive, warm_up
from service.settings import Settings
from tests.service.artefacts import write_autoencoder, write_diffusion, write_one_shot
from tests.service.engine.conftest import CPU
from tests.service.models.not_files import directory, pipe, server_socket


def test_every_model_is_loaded_and_priced(settings: Settings) -> None:
    registry = load_registry(settings, CPU)
    assert sorted(registry.served) == ["ddpm", "vae"]
    assert registry.refused == {}
    assert all(served.cost.forward_ms(4) > 0 for served in registry.served.values())


def test_a_damaged_model_is_refused_alone(weights: Path, settings: Settings) -> None:
    path = next((weights / "vae").glob("*.pt"))
    path.write_bytes(b"")
    registry = load_registry(settings, CPU)
    assert list(registry.served) == ["ddpm"]
    assert path.name in registry.refused["vae"]


def test_models_are_prepared_side_by_side(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, two models: each waits in its warm-up until the other is there too."""
    both = threading.Barrier(2, timeout=30)

    def meet(model: Model, settings: Settings, run_exclusive: RunExclusive, _: object) -> CostModel:
        both.wait()
        return warm_up(model, settings, run_exclusive)

    monkeypatch.setattr("service.models.registry.warm_up", meet)
    registry = load_registry(settings.model_copy(update={"engine_threads": 2}), CPU)
    assert list(registry.served) == ["ddpm", "vae"]


class NotFinite(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.full((len(z), 1, 8, 8), float("nan"))


class WrongShape(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.zeros(len(z), 1, 4, 4)


class OneForAll(nn.Module):
    """One picture whatever the batch, which arithmetic would broadcast."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.rand(1, 1, 8, 8)


class WrongType(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.zeros(len(z), 1, 8, 8, dtype=torch.int64)


class TwoResults(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return z, z


class NoResult(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> None:
        return None


class Misfit(nn.Module):
    """A RuntimeError, of torch."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return z.reshape(-1, 3, 17)


class Raises(nn.Module):
    """A torch.jit.Error, which is no RuntimeError."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        raise ValueError("no pictures today")


class NoArgument(nn.Module):
    def forward(self) -> Tensor:
        return torch.zeros(1)


@pytest.mark.parametrize(
    ("decode", "reason"),
    [
        (NotFinite(), "not finite"),
        (WrongShape(), r"decode returned float32 of shape \(1, 1, 4, 4\), not float32 of shape \(1, 1, 8, 8\)"),
        (OneForAll(), r"of shape \(1, 1, 8, 8\), not float32 of shape \(2, 1, 8, 8\)"),
        (WrongType(), "decode returned int64"),
        (TwoResults(), "decode returned tuple, not a tensor"),
        (NoResult(), "decode returned NoneType, not a tensor"),
        (Misfit(), "RuntimeError|shape"),
        (Raises(), "Error: no pictures today"),
        (NoArgument(), "forward"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else "",
)
def test_a_model_that_fails_its_warm_up_is_refused(
    weights: Path, settings: Settings, decode: nn.Module, reason: str
) -> None:
    write_one_shot(weights, "bad", decode)
    registry = load_registry(settings, CPU)
    assert sorted(registry.served) == ["ddpm", "vae"]
    assert re.search(reason, registry.refused["bad"])
    assert "\n" not in registry.refused["bad"]


class BroadcastDenoise(nn.Module):
    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return x.mean(dim=0, keepdim=True)


def test_a_prediction_that_would_be_broadcast_is_refused(weights: Path, settings: Settings) -> None:
    write_diffusion(weights, "bad", BroadcastDenoise())
    registry = load_registry(settings, CPU)
    assert sorted(registry.served) == ["ddpm", "vae"]
    assert "denoise returned float32 of shape (1, 1, 8, 8)" in registry.refused["bad"]


@pytest.mark.parametrize(
    "raised", [KeyError("weight"), MemoryError(), TypeError("odd"), ZeroDivisionError("none"), OSError(5, "disk")]
)
def test_whatever_one_model_raises_refuses_that_model_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, raised: Exception
) -> None:
    def load(directory: Path, *others: object) -> Model:
        if directory.name == "vae":
            raise raised
        return load_model(directory, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("service.models.registry.load_model", load)
    registry = load_registry(settings, CPU)
    assert list(registry.served) == ["ddpm"]
    assert type(raised).__name__ in registry.refused["vae"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None  # nothing foresaw it: its traceback is in the log
    assert record.exc_info[1] is raised


def link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("file", ["manifest.json", "model-*.pt", "latents-*.npz"])
@pytest.mark.parametrize(
    "tamper", [pipe, directory, link_to_a_device, link_to_nothing, link_to_itself, server_socket, huge]
)
def test_what_is_no_plain_file_refuses_its_model_and_blocks_nothing(
    weights: Path, settings: Settings, tamper: Callable[[Path], None], file: str
) -> None:
    write_autoencoder(weights, "bad")
    (path,) = (weights / "bad").glob(file)
    tamper(path)
    registry = load_registry(settings, CPU)
    assert sorted(registry.served) == ["ddpm", "vae"]
    assert registry.refused["bad"].startswith(f"{path}: ")


def test_a_link_to_a_manifest_is_followed(weights: Path, settings: Settings) -> None:
    """As Kubernetes mounts a ConfigMap."""
    path = weights / "vae" / "manifest.json"
    path.symlink_to(path.rename(path.with_name("data")))
    assert sorted(load_registry(settings, CPU).served) == ["ddpm", "vae"]


def test_a_folder_that_cannot_be_entered_is_refused_and_not_missing(weights: Path, settings: Settings) -> None:
    for name in ("closed", "lost+found"):  # the second is no model's name, and on many disks
        (weights / name).symlink_to(name)
    registry = load_registry(settings, CPU)
    assert sorted(registry.served) == ["ddpm", "vae"]
    assert list(registry.refused) == ["closed"]


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
    assert encoder.cost.forward_ms(4) > 0
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


class OneEncode(nn.Module):
    """A tensor of two rows could pass for mean and log-variance."""

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        return torch.zeros(len(image), 4)


class UnevenEncode(nn.Module):
    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(image), 4), torch.zeros(len(image), 1)


class RaisesEncode(nn.Module):
    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("no codes today")


@pytest.mark.parametrize(
    ("encode", "reason"),
    [
        (NotFiniteEncode(), "not finite"),
        (WrongShapeEncode(), "shape"),
        (OneEncode(), "encode returned Tensor, not a mean and a log-variance"),
        (UnevenEncode(), "stack"),
        (RaisesEncode(), "no codes today"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else "",
)
def test_a_model_whose_encoder_fails_its_warm_up_is_refused(
    weights: Path, settings: Settings, encode: nn.Module, reason: str
) -> None:
    write_autoencoder(weights, "bad", encode=encode)
    registry = load_registry(settings, CPU)
    assert sorted(registry.served) == ["ddpm", "vae"]
    assert reason in registry.refused["bad"]
