"""A convolutional variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114), class-conditional.

The decoder enlarges by nearest neighbour and convolves: transposed convolutions leave checkerboards on smooth
cloth.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Encoder(nn.Module):
    """(batch, channel, height, width) in [-1, 1], (batch,) int64 -> mean, log-variance (batch, latent)."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int, latent: int) -> None:
        super().__init__()
        channel, height, image_width = image_shape
        wide = 2 * width
        self.label = nn.Embedding(classes + 1, wide)
        self.fine = nn.Conv2d(channel, width, 4, stride=2, padding=1)
        self.coarse = nn.Conv2d(width, wide, 4, stride=2, padding=1)
        self.mix = nn.Conv2d(wide, wide, 3, padding=1)
        self.out = nn.Linear(wide * (height // 4) * (image_width // 4), 2 * latent)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.silu(self.coarse(F.silu(self.fine(image))))  # (B, 2W, H/4, W/4)
        hidden = F.silu(self.mix(hidden + self.label(label)[:, :, None, None]))
        mean, logvar = self.out(hidden.flatten(1)).chunk(2, dim=1)  # (B, latent) each
        # Bounded so that exp() of an early, wild prediction cannot overflow.
        return mean, logvar.clamp(-12.0, 6.0)


class Decoder(nn.Module):
    """(batch, latent), (batch,) int64 -> (batch, channel, height, width) in [-1, 1]."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int, latent: int) -> None:
        super().__init__()
        channel, height, image_width = image_shape
        self.wide, self.rows, self.columns = 2 * width, height // 4, image_width // 4
        self.label = nn.Embedding(classes + 1, latent)
        self.enter = nn.Linear(2 * latent, self.wide * self.rows * self.columns)
        self.coarse = nn.Conv2d(self.wide, self.wide, 3, padding=1)
        self.fine = nn.Conv2d(self.wide, width, 3, padding=1)
        self.full = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, channel, 3, padding=1)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        hidden = F.silu(self.enter(torch.cat([z, self.label(label)], dim=1)))
        hidden = hidden.reshape(-1, self.wide, self.rows, self.columns)  # (B, 2W, H/4, W/4)
        hidden = F.silu(self.coarse(hidden))
        hidden = F.silu(self.fine(F.interpolate(hidden, scale_factor=2.0, mode="nearest")))
        hidden = F.silu(self.full(F.interpolate(hidden, scale_factor=2.0, mode="nearest")))
        return torch.tanh(self.out(hidden))  # (B, C, H, W)


class VAE(nn.Module):
    """Encoder and decoder of one latent space."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int, latent: int) -> None:
        super().__init__()
        self.encoder = Encoder(image_shape, classes, width, latent)
        self.decoder = Decoder(image_shape, classes, width, latent)
