"""The network of the text-to-image models: a U-Net that attends to a caption's tokens and to its own positions.

Sized for a CPU like `unet`: after the pixel unshuffle no map is larger than a quarter of the image in height and width.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.text_encoder import attention_bias
from trainer.models.unet import ChannelNorm, ResidualBlock, TimeEmbedding, zeroed

#: Channels of an attention head.
HEAD = 32


class JointAttention(nn.Module):
    """Each position of a map attends to all positions and to all tokens of the caption, in one softmax."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.heads = channels // HEAD
        self.norm, self.norm_context = nn.LayerNorm(channels), nn.LayerNorm(context)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.context_kv = nn.Linear(context, 2 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        positions = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)  # (B, N, C)
        query, key, value = self.qkv(self.norm(positions)).chunk(3, dim=-1)
        context_key, context_value = self.context_kv(self.norm_context(context)).chunk(2, dim=-1)  # (B, T, C) each
        query = self._by_head(query)
        key = self._by_head(torch.cat([key, context_key], dim=1))  # (B, heads, N + T, HEAD)
        value = self._by_head(torch.cat([value, context_value], dim=1))
        bias = F.pad(bias, (height * width, 0))  # positions are not masked
        # Written out: see docs/decisions/0003.
        weight = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]) + bias).softmax(dim=-1)
        mixed = (weight.to(value.dtype) @ value).transpose(1, 2).reshape(batch, height * width, channels)
        attended: Tensor = positions + self.out(mixed)
        return attended.reshape(batch, height, width, channels).permute(0, 3, 1, 2)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class TextStage(nn.Module):
    """Residual blocks, each followed by attention where ``context`` is not 0."""

    def __init__(self, widths: list[int], embedding: int, context: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(a, b, embedding, 0.0) for a, b in pairwise(widths))
        self.attentions = nn.ModuleList(JointAttention(width, context) for width in widths[1:])

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        for block, attention in zip(self.blocks, self.attentions):  # noqa: B905  (TorchScript knows no strict)
            x = attention(block(x, embedding), context, bias)
        return x


class Blocks(nn.Module):
    """Residual blocks without attention."""

    def __init__(self, widths: list[int], embedding: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(a, b, embedding, 0.0) for a, b in pairwise(widths))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        return x


def mean_of_tokens(context: Tensor, mask: Tensor) -> Tensor:
    """The weighted mean (batch, width) of a caption's tokens: it distinguishes captions from the first step on."""
    present = mask.to(context.dtype)[:, :, None]  # (B, T, 1)
    return (context * present).sum(dim=1) / present.sum(dim=1)


class Placed(nn.Module):
    """A convolution plus a learned vector for each position of its output, (channels, height, width).

    In pure noise only the caption determines the layout, and convolutions distinguish positions only at the border.
    """

    def __init__(self, convolution: nn.Conv2d, height: int, width: int) -> None:
        super().__init__()
        self.convolution = convolution
        self.position = nn.Parameter(0.02 * torch.randn(1, convolution.out_channels, height, width))

    def forward(self, x: Tensor) -> Tensor:
        placed: Tensor = self.convolution(x) + self.position
        return placed


class TextUNet(nn.Module):
    """Predicts the target of its objective (noise, v, velocity or x_start) from ``x`` at time ``t`` and a caption.

    ``forward(x, t, context, context_mask)``: (batch, channel, height, width), (batch,) float in (0, 1],
    (batch, tokens, context) float, the weights of the tokens (batch, tokens) -> the shape of ``x``; see
    ``attention_bias``. A caption has at least one token. Height and width are those of ``image_shape``, multiples of 2
    ``patch``.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], patch: int, width: int, wide: int, blocks: int, context: int
    ) -> None:
        super().__init__()
        self.patch = patch
        channel, embedding = patch * patch * image_shape[0], 4 * width
        rows, columns = image_shape[1] // patch, image_shape[2] // patch
        self.time = TimeEmbedding(width, embedding)
        self.caption = nn.Linear(context, embedding)
        self.stem = Placed(nn.Conv2d(channel, width, 3, padding=1), rows, columns)
        self.down_fine = Blocks([width] * (blocks + 1), embedding)
        self.downsample = Placed(nn.Conv2d(width, wide, 3, stride=2, padding=1), rows // 2, columns // 2)
        self.coarse = TextStage([wide] * (blocks + 2), embedding, context)
        self.upsample = nn.Conv2d(wide, width, 3, padding=1)
        self.up_fine = Blocks([2 * width] + [width] * blocks, embedding)
        self.norm = ChannelNorm(width)
        self.head = zeroed(nn.Conv2d(width, channel, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        context_mask: Tensor,
        to_fine: Tensor | None = None,
        to_coarse: Tensor | None = None,
    ) -> Tensor:
        """``to_fine`` and ``to_coarse``, of a control network, are added to the maps of the two resolutions."""
        embedding = F.silu(self.time(t) + self.caption(mean_of_tokens(context, context_mask)))  # (B, E)
        fine = self.stem(F.pixel_unshuffle(x, self.patch))  # (B, W, H/p, W/p)
        fine = self.down_fine(fine, embedding)
        hidden = self.coarse(self.downsample(fine), embedding, context, attention_bias(context_mask))
        if to_fine is not None and to_coarse is not None:
            fine, hidden = fine + to_fine, hidden + to_coarse
        hidden = self.upsample(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        hidden = self.up_fine(torch.cat([hidden, fine], dim=1), embedding)
        return F.pixel_shuffle(self.head(F.silu(self.norm(hidden))), self.patch)
