"""Encoder and decoder with two resolutions, for autoencoders, VAEs and the GAN's generator.

A pixel (un)shuffle of ``patch`` x ``patch`` at the image side avoids feature maps at full resolution; residual blocks
at 1 / patch of the height and at half of that are modulated by the class. A latent is a vector, or a map at the lower
of these resolutions.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.unet import ChannelNorm, Stage


class Layout(NamedTuple):
    """The sizes of an encoder and its decoder: ``width`` channels per patch, ``blocks`` at each resolution."""

    image_shape: tuple[int, int, int]
    classes: int
    latent_shape: tuple[int, ...]
    width: int
    blocks: int
    patch: int = 2

    @property
    def coarse_shape(self) -> tuple[int, int, int]:
        """(channel, height, width) of the maps at the lower resolution."""
        _, height, width = self.image_shape
        return 2 * self.width, height // (2 * self.patch), width // (2 * self.patch)


class Encoder(nn.Module):
    """(batch, channel, height, width) in [-1, 1], (batch,) int64 -> mean, log-variance (batch, *latent)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        image_shape, classes, latent_shape, width, blocks, patch = layout
        wide, embedding = 2 * width, 4 * width
        self.patch = patch
        self.label = nn.Embedding(classes + 1, embedding)
        self.stem = nn.Conv2d(patch**2 * image_shape[0], width, 3, padding=1)
        self.fine = Stage([width] * (blocks + 1), embedding, 0.0, attention=False)
        self.downsample = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.coarse = Stage([wide] * (blocks + 1), embedding, 0.0, attention=False)
        self.norm = ChannelNorm(wide)
        self.head: nn.Module
        if len(latent_shape) == 1:
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(layout.coarse_shape), 2 * latent_shape[0]))
        else:
            self.head = nn.Conv2d(wide, 2 * latent_shape[0], 1)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        embedding = F.silu(self.label(label))  # (B, E)
        hidden = self.fine(self.stem(F.pixel_unshuffle(image, self.patch)), embedding)  # (B, W, H/patch, W/patch)
        hidden = self.coarse(self.downsample(hidden), embedding)  # (B, 2W, H/2patch, W/2patch)
        mean, logvar = self.head(F.silu(self.norm(hidden))).chunk(2, dim=1)  # (B, *latent) each
        # Clamped, because exp() of an early prediction could overflow.
        return mean, logvar.clamp(-12.0, 6.0)


class Decoder(nn.Module):
    """(batch, *latent), (batch,) int64 -> (batch, channel, height, width) in [-1, 1]."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        image_shape, classes, latent_shape, width, blocks, patch = layout
        wide, embedding = 2 * width, 4 * width
        self.patch = patch
        self.enter: nn.Module
        if len(latent_shape) == 1:
            self.enter = VectorEntry(latent_shape[0], classes, layout.coarse_shape, embedding)
        else:
            self.enter = MapEntry(latent_shape[0], classes, wide, embedding)
        self.coarse = Stage([wide] * (blocks + 1), embedding, 0.0, attention=False)
        self.upsample = nn.Conv2d(wide, width, 3, padding=1)
        self.fine = Stage([width] * (blocks + 1), embedding, 0.0, attention=False)
        self.norm = ChannelNorm(width)
        self.head = nn.Conv2d(width, patch**2 * image_shape[0], 3, padding=1)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        hidden, embedding = self.enter(z, label)  # (B, 2W, H/2patch, W/2patch), (B, E)
        hidden = self.coarse(hidden, embedding)
        hidden = self.upsample(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))  # (B, W, H/patch, W/patch)
        hidden = self.fine(hidden, embedding)
        return torch.tanh(F.pixel_shuffle(self.head(F.silu(self.norm(hidden))), self.patch))  # (B, C, H, W)


class VectorEntry(nn.Module):
    """Maps a latent vector and a class to the first feature map and to the embedding that modulates the blocks."""

    def __init__(self, latent: int, classes: int, shape: tuple[int, int, int], embedding: int) -> None:
        super().__init__()
        self.channels, self.rows, self.columns = shape
        self.label = nn.Embedding(classes + 1, latent)
        self.map = nn.Linear(2 * latent, self.channels * self.rows * self.columns)
        self.mix = nn.Sequential(nn.Linear(2 * latent, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

    def forward(self, z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([z, self.label(label)], dim=1)  # (B, 2 latent)
        hidden = self.map(joined).reshape(-1, self.channels, self.rows, self.columns)
        # A sum takes the memory format of its first term: any other format here makes every block copy its maps.
        return hidden.contiguous(memory_format=torch.channels_last), F.silu(self.mix(joined))


class MapEntry(nn.Module):
    """Maps a latent map to the first feature map; the blocks are modulated by the class only."""

    def __init__(self, latent: int, classes: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.label = nn.Embedding(classes + 1, embedding)
        self.map = nn.Conv2d(latent, channels, 3, padding=1)

    def forward(self, z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(z), F.silu(self.label(label))
