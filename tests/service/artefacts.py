"""Artefacts for tests, made without the trainer: tiny networks whose pictures are easy to predict."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.contract.artifact import write_artifact, write_latents
from service.contract.manifest import (
    Dataset,
    Defaults,
    Manifest,
    ManifestFamily,
    NoiseSchedule,
    Training,
    write_manifest,
)
from service.sampling.latent_map import LatentMap, pack, project

CLASS_NAMES = ("t-shirt", "trouser", "bag")
IMAGE_SHAPE = (1, 8, 8)
LATENT_SHAPE = (4,)
#: A latent whose first number is beyond this is poison to PoisonDecode.
POISON = 100.0


class Decode(nn.Module):
    """A picture that is a fixed linear function of the latent, shifted by its class."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 64, generator=generator))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight + 0.1 * label[:, None]).reshape(-1, 1, 8, 8)


class PoisonDecode(Decode):
    """As Decode; raises when a latent of the batch is over POISON, gives NaN for one below -POISON."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        if bool((z[:, 0] > 100.0).any()):
            raise RuntimeError("poisoned")
        images = torch.tanh(z @ self.weight + 0.1 * label[:, None]).reshape(-1, 1, 8, 8)
        return torch.where((z[:, 0] < -100.0)[:, None, None, None], torch.full_like(images, float("nan")), images)


class Encode(nn.Module):
    """Means and log-variances that depend on the whole picture and on its class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 8, generator=torch.Generator().manual_seed(1)) / 8)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = (image.flatten(1) @ self.weight + 0.1 * label[:, None]).chunk(2, dim=1)
        return mean, logvar


class MapEncode(nn.Module):
    """The mean of every four pixels, and small variances: a latent that is a map of the picture."""

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        mean = nn.functional.avg_pool2d(image, 2)
        return mean, mean - 6.0


class MapDecode(nn.Module):
    """Every number of the latent as four pixels."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return z.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3).clamp(-1.0, 1.0)


class PixelDecode(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return z


class Denoise(nn.Module):
    """Pulls towards a grey level that depends on class, time and the picture's own mean."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        level = 0.2 * label.to(x.dtype) - 0.3 + 0.1 * t
        return torch.tanh(0.5 * x + level[:, None, None, None] + 0.1 * x.mean(dim=(1, 2, 3), keepdim=True))


class Container(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def write_one_shot(
    weights: Path, name: str = "vae", decode: nn.Module | None = None, family: ManifestFamily = "vae"
) -> Manifest:
    """weights/<name>: a model that decodes a latent of four numbers."""
    return _write(weights / name, Container(decode=decode or Decode()), family=family, latent_shape=LATENT_SHAPE)


def write_autoencoder(
    weights: Path,
    name: str = "vae",
    decode: nn.Module | None = None,
    encode: nn.Module | None = None,
    **fields: Any,
) -> Manifest:
    """weights/<name>: the same with an encoder, and a latent map of some codes."""
    return _write(
        weights / name,
        Container(decode=decode or Decode(), encode=encode or Encode()),
        **{
            "family": "vae",
            "latent_shape": LATENT_SHAPE,
            "capabilities": ("generate", "interpolate", "encode", "decode"),
            "latents": write_latents(_made(weights / name), pack(some_codes())),
            **fields,
        },
    )


def write_latent_diffusion(weights: Path, name: str = "ldm") -> Manifest:
    """weights/<name>: a diffusion in latents that are a map of a quarter of the picture's size."""
    return _write(
        weights / name,
        Container(decode=MapDecode(), encode=MapEncode(), denoise=Denoise()),
        family="ldm",
        latent_shape=(1, 4, 4),
        capabilities=("generate", "interpolate", "encode", "decode"),
        noise_schedule=NoiseSchedule(kind="linear", timesteps=1000),
        t_max=1.0,
        defaults=Defaults(steps=4, solver="ddim", guidance_scale=1.0),
    )


def some_codes() -> LatentMap:
    """Thirty codes, ten of each class."""
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(30, *LATENT_SHAPE)) * [3.0, 1.0, 0.2, 0.1]
    return project(codes.astype(np.float32), np.arange(30) % 3)


def write_diffusion(weights: Path, name: str = "ddpm", denoise: nn.Module | None = None) -> Manifest:
    """weights/<name>: a diffusion in pixel space with T = 1000."""
    return _write(
        weights / name,
        Container(decode=PixelDecode(), denoise=denoise or Denoise()),
        family="ddpm",
        latent_shape=IMAGE_SHAPE,
        x0_range=(-1.0, 1.0),
        noise_schedule=NoiseSchedule(kind="linear", timesteps=1000),
        t_max=1.0,
        defaults=Defaults(steps=4, solver="dpmpp_2m", guidance_scale=1.0),
    )


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _write(directory: Path, container: nn.Module, **fields: Any) -> Manifest:
    _made(directory)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(container.eval()), file)
    manifest = Manifest(
        schema_version=1,
        name=directory.name,
        image_shape=IMAGE_SHAPE,
        class_names=CLASS_NAMES,
        inference_dtype="float32",
        artifact=write_artifact(directory, file.getvalue()),
        dataset=Dataset(name="none", licence="CC0", source="https://example.org/none", images=1),
        training=Training(
            command="none",
            epochs=1,
            images_seen=1,
            seconds=0.0,
            device="cpu",
            precision="fp32",
            seed=0,
            parameters=1,
            losses={},
        ),
        torch_version=torch.__version__,
        created="2026-01-01",
        **{
            "capabilities": ("generate", "interpolate"),
            "x0_range": None,
            "noise_schedule": None,
            "t_max": None,
            "defaults": None,
            **fields,
        },
    )
    write_manifest(directory, manifest)
    return manifest
