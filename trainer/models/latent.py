"""Latent diffusion: its denoising network, and the standardisation of codes. Small maps allow attention throughout."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.unet import ChannelNorm, Stage, TimeEmbedding, zeroed


class LatentNet(nn.Module):
    """A denoising network for latent maps, conditioned on time and class; its objective defines what it predicts.

    ``forward(x, t, label)``: (batch, channel, height, width), (batch,) float in (0, 1], (batch,) int64 -> the shape of
    ``x``. ``blocks`` pairs of residual blocks of ``width`` channels, attention after each pair.
    """

    def __init__(self, latent_shape: tuple[int, ...], classes: int, width: int, blocks: int, dropout: float) -> None:
        super().__init__()
        channel, embedding = latent_shape[0], 2 * width
        self.time = TimeEmbedding(width, embedding)
        self.label = nn.Embedding(classes + 1, embedding)
        self.stem = nn.Conv2d(channel, width, 3, padding=1)
        self.stages = nn.ModuleList(Stage([width] * 3, embedding, dropout, attention=True) for _ in range(blocks))
        self.norm = ChannelNorm(width)
        self.head = zeroed(nn.Conv2d(width, channel, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time(t) + self.label(label))  # (B, E)
        hidden = self.stem(x)
        for stage in self.stages:
            hidden = stage(hidden, embedding)
        output: Tensor = self.head(F.silu(self.norm(hidden)))
        return output


class Standardise(nn.Module):
    """Shifts and scales each channel of the codes to mean 0 and variance 1, as diffusion assumes."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))

    def fit(self, codes: Tensor) -> None:
        """Set mean and deviation to those of ``codes`` (batch, channel, height, width)."""
        self.mean.copy_(codes.mean(dim=(0, 2, 3), keepdim=True))
        self.deviation.copy_(codes.std(dim=(0, 2, 3), keepdim=True))

    def forward(self, code: Tensor) -> Tensor:
        return (code - self.mean) / self.deviation

    @torch.jit.export
    def inverse(self, latent: Tensor) -> Tensor:
        """Convert latents of the diffusion to codes."""
        return latent * self.deviation + self.mean


class LatentEncode(nn.Module):
    """Encodes an image to the mean and log-variance of its standardised latent."""

    def __init__(self, encoder: nn.Module, standardise: Standardise) -> None:
        super().__init__()
        self.encoder, self.standardise = encoder, standardise

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.encoder(image, label)
        return self.standardise(mean), logvar - 2.0 * self.standardise.deviation.log()


class LatentDecode(nn.Module):
    """Decodes a standardised latent to an image."""

    def __init__(self, decoder: nn.Module, standardise: Standardise) -> None:
        super().__init__()
        self.decoder, self.standardise = decoder, standardise

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.standardise.inverse(z), label)
        return image
