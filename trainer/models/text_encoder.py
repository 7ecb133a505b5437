"""The text encoder, a small transformer that is trained together with the U-Net."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TextLayer(nn.Module):
    """Pre-norm self-attention and a perceptron."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, T, W / heads) each
        weight = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]) + bias).softmax(dim=-1)
        mixed = (weight.to(value.dtype) @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.dropout(self.out(mixed))
        hidden: Tensor = x + self.dropout(self.narrow(F.silu(self.widen(self.norm_mlp(x)))))
        return hidden


class TextEncoder(nn.Module):
    """``forward(tokens, mask)``: (batch, length) int64, (batch, length) bool -> (batch, length, width).

    ``mask`` is true for tokens and false for padding; the first token is always present.
    """

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(0.005 * torch.randn(length, width))
        self.layers = nn.ModuleList(TextLayer(width, max(1, width // 32), dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        # Small, so that the vectors of rare words change much in few steps.
        nn.init.normal_(self.word.weight, std=0.02)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.word(tokens) + self.place[: tokens.shape[1]]
        bias = attention_bias(mask)
        for layer in self.layers:
            x = layer(x, bias)
        context: Tensor = self.norm(x)
        return context


def attention_bias(mask: Tensor) -> Tensor:
    """The bias of attention logits by the weight of each token, (batch, length) bool, or float in [0, 1].

    (batch, 1, 1, length) float32. Padding has the weight 0 and gets no attention. Weights in between are those of
    tokens that only one end of a path between captions has: attention to them grows along the path without a jump.
    """
    return mask.float().clamp_min(1e-38).log()[:, None, None, :]
