"""Artefacts for tests, made without the trainer: tiny networks whose pictures are easy to predict."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from service.contract.artifact import write_artifact, write_latents, write_words
from service.contract.manifest import (
    Dataset,
    Defaults,
    Manifest,
    ManifestFamily,
    NoiseSchedule,
    Training,
    write_manifest,
)
from service.contract.text import TextModel, Words
from service.sampling.latent_map import LatentMap, pack, project

CLASS_NAMES = ("t-shirt", "trouser", "bag")
IMAGE_SHAPE = (1, 8, 8)
LATENT_SHAPE = (4,)
TEXT_SHAPE = (3, 8, 8)
TOKENS = 6
VOCABULARY = ("[PAD]", "[UNK]", "[START]", "red", "green", "heart", "apple", "flag", "ireland", "woman")
PICTOGRAPHS = {"\u2764": "red heart", "\U0001f1ee\U0001f1ea": "flag: Ireland", "\U0001f469": "woman"}
PICTOGRAPHS["\U0001f469\u200d\u2764"] = "woman apple"
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


class ReadText(nn.Module):
    """A fixed vector for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(len(VOCABULARY), 4, generator=torch.Generator().manual_seed(2)))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.vectors[tokens] * mask[:, :, None].float()


class TextDenoise(nn.Module):
    """Pulls towards the mean of a prompt's vectors; strokes of a drawing become white."""

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        context_mask: Tensor,
        hint: Tensor | None = None,
        hint_scale: Tensor | None = None,
    ) -> Tensor:
        present = context_mask.float()
        level = (context * present[:, :, None]).sum(dim=1) / present.sum(dim=1, keepdim=True)
        x_start = torch.tanh(0.5 * x + level[:, :3, None, None] + 0.1 * t[:, None, None, None])
        if hint is not None and hint_scale is not None:
            x_start = torch.maximum(x_start, 2 * hint_scale[:, None, None, None] * hint - 1)
        return x_start


class TextDecode(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z


def text_tokenizer() -> Tokenizer:
    """The words of ``VOCABULARY``, split and cut as the trainer's tokenizer does."""
    tokenizer = Tokenizer(models.WordLevel({word: token for token, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}]+"), "removed")
    tokenizer.post_processor = processors.TemplateProcessing(single="[START] $A", special_tokens=[("[START]", 2)])
    tokenizer.enable_truncation(TOKENS)
    return tokenizer


def write_text(
    weights: Path,
    name: str = "emoji",
    *,
    sketches: bool = False,
    pictographs: Mapping[str, str] = PICTOGRAPHS,
    **fields: Any,
) -> Manifest:
    """weights/<name>: text to image in pixels, with weights in float16; ``sketches``: with control by drawings."""
    file = Words(tokenizer=json.loads(text_tokenizer().to_str()), pictographs=dict(pictographs))
    words = write_words(_made(weights / name), file.model_dump_json().encode())
    return _write(
        weights / name,
        Container(decode=TextDecode(), denoise=TextDenoise(), encode_text=ReadText().half()),
        **{
            "family": "ddpm",
            "image_shape": TEXT_SHAPE,
            "latent_shape": TEXT_SHAPE,
            "class_names": (),
            "capabilities": ("generate",),
            "x0_range": (-1.0, 1.0),
            "noise_schedule": NoiseSchedule(kind="flow", timesteps=1000),
            "t_max": 1.0,
            "defaults": Defaults(steps=4, solver="dpmpp_2m", guidance_scale=3.0),
            "text": TextModel(
                tokens=TOKENS,
                width=4,
                vocabulary=len(VOCABULARY),
                words=words,
                hint_shape=(1, 8, 8) if sketches else None,
            ),
            **fields,
        },
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
            "image_shape": IMAGE_SHAPE,
            "class_names": CLASS_NAMES,
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
