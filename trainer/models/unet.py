"""The network of the diffusion models: a small U-Net with time and class embedding.

Ho et al. 2020 (arXiv 2006.11239) in outline, sized for a CPU: a pixel unshuffle at the input avoids feature maps at
full resolution, and normalisation over channels is one fused kernel in channels-last memory. Every module can be
scripted.
"""

import math
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def zeroed(layer: Layer) -> Layer:
    """``layer`` with zero weight and bias: its residual block starts as the identity."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class ChannelNorm(nn.Module):
    """Layer normalisation over the channel axis of (batch, channel, height, width)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = self.norm(x.permute(0, 2, 3, 1))  # (B, H, W, C), a view in channels-last memory
        return normal.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two convolutions with a scale and shift by the embedding between them; the second starts at zero."""

    def __init__(self, channels_in: int, channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = ChannelNorm(channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm_out = ChannelNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv_in(F.silu(self.norm_in(x)))  # (B, C, H, W)
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        hidden = self.norm_out(hidden) * (1 + scale) + shift
        shortcut: Tensor = self.skip(x)
        residual: Tensor = self.conv_out(self.dropout(F.silu(hidden)))
        return shortcut + residual


class SelfAttention(nn.Module):
    """Multi-head attention among the positions of one feature map."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)  # (B, N, C)
        qkv = self.qkv(self.norm(tokens)).reshape(batch, height * width, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, C / heads) each
        # Not fused: over 49 positions the backward pass of the fused CPU kernel is slower than two products.
        weight = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1)  # (B, heads, N, N)
        mixed = weight @ value
        residual: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, height * width, channels))
        return (tokens + residual).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Residual blocks, then self-attention if ``attention`` is set."""

    def __init__(self, widths: list[int], embedding: int, dropout: float, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(a, b, embedding, dropout) for a, b in pairwise(widths))
        self.attention = SelfAttention(widths[-1]) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        attended: Tensor = self.attention(x)
        return attended


class UNet(nn.Module):
    """A denoising network conditioned on time and class; its objective defines what it predicts.

    ``forward(x, t, label)``: (batch, channel, height, width), (batch,) float in (0, 1], (batch,) int64 with
    ``classes`` meaning "no class" -> the shape of ``x``. Height and width are multiples of twice ``patch``.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, width: int, blocks: int, dropout: float, patch: int = 2
    ) -> None:
        super().__init__()
        channel = patch**2 * image_shape[0]
        wide, embedding = 2 * width, 4 * width
        self.patch = patch
        self.time = TimeEmbedding(width, embedding)
        self.label = nn.Embedding(classes + 1, embedding)
        self.stem = nn.Conv2d(channel, width, 3, padding=1)
        self.down_fine = Stage([width] * (blocks + 1), embedding, dropout, attention=False)
        self.downsample = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.down_coarse = Stage([wide] * (blocks + 1), embedding, dropout, attention=True)
        self.middle = Stage([wide, wide], embedding, dropout, attention=True)
        self.up_coarse = Stage([2 * wide] + [wide] * blocks, embedding, dropout, attention=True)
        self.upsample = nn.Conv2d(wide, width, 3, padding=1)
        self.up_fine = Stage([2 * width] + [width] * blocks, embedding, dropout, attention=False)
        self.norm = ChannelNorm(width)
        self.head = zeroed(nn.Conv2d(width, channel, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time(t) + self.label(label))  # (B, E)
        fine = self.stem(F.pixel_unshuffle(x, self.patch))  # (B, W, H/P, W/P)
        fine = self.down_fine(fine, embedding)
        coarse = self.down_coarse(self.downsample(fine), embedding)  # (B, 2W, H/2P, W/2P)
        hidden = self.middle(coarse, embedding)
        hidden = self.up_coarse(torch.cat([hidden, coarse], dim=1), embedding)
        hidden = self.upsample(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        hidden = self.up_fine(torch.cat([hidden, fine], dim=1), embedding)
        return F.pixel_shuffle(self.head(F.silu(self.norm(hidden))), self.patch)  # (B, C, H, W)


class TimeEmbedding(nn.Module):
    """Sinusoids of 1000 t through a two-layer perceptron: (batch,) -> (batch, embedding)."""

    frequencies: Tensor

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * torch.arange(half) / half))
        self.mlp = nn.Sequential(nn.Linear(2 * half, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

    def forward(self, t: Tensor) -> Tensor:
        angles = 1000.0 * t[:, None] * self.frequencies[None, :]  # (B, width / 2)
        embedding: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))
        return embedding
