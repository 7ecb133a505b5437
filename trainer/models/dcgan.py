"""The DCGAN pair (Radford et al. 2016, arXiv 1511.06434), made class-conditional.

The generator concatenates a class embedding to the noise. The discriminator uses projection (Miyato & Koyama 2018,
arXiv 1802.05637): an inner product of its features with a class embedding is added to the logit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Generator(nn.Module):
    """(batch, latent), (batch,) int64 -> (batch, channel, height, width) in [-1, 1]."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int, latent: int) -> None:
        super().__init__()
        channel, height, image_width = image_shape
        self.wide, self.rows, self.columns = 2 * width, height // 4, image_width // 4
        self.label = nn.Embedding(classes + 1, latent)
        self.enter = nn.Linear(2 * latent, self.wide * self.rows * self.columns, bias=False)
        self.norm_enter = nn.BatchNorm2d(self.wide)
        self.coarse = nn.ConvTranspose2d(self.wide, width, 4, stride=2, padding=1, bias=False)
        self.norm_coarse = nn.BatchNorm2d(width)
        self.fine = nn.ConvTranspose2d(width, channel, 4, stride=2, padding=1)
        self.apply(dcgan_init)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        hidden = self.enter(torch.cat([z, self.label(label)], dim=1))
        hidden = hidden.reshape(-1, self.wide, self.rows, self.columns)  # (B, 2W, H/4, W/4)
        hidden = F.relu(self.norm_enter(hidden))
        hidden = F.relu(self.norm_coarse(self.coarse(hidden)))  # (B, W, H/2, W/2)
        return torch.tanh(self.fine(hidden))  # (B, C, H, W)


class Discriminator(nn.Module):
    """(batch, channel, height, width) in [-1, 1], (batch,) int64 -> logits (batch,)."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        channel, height, image_width = image_shape
        wide = 2 * width
        self.fine = nn.Conv2d(channel, width, 4, stride=2, padding=1)
        self.coarse = nn.Conv2d(width, wide, 4, stride=2, padding=1, bias=False)
        self.norm_coarse = nn.BatchNorm2d(wide)
        self.features = nn.Linear(wide * (height // 4) * (image_width // 4), wide)
        self.out = nn.Linear(wide, 1)
        self.label = nn.Embedding(classes + 1, wide)
        self.apply(dcgan_init)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.fine(image), 0.2)  # (B, W, H/2, W/2)
        hidden = F.leaky_relu(self.norm_coarse(self.coarse(hidden)), 0.2)
        features = F.leaky_relu(self.features(hidden.flatten(1)), 0.2)  # (B, 2W)
        logits: Tensor = self.out(features).squeeze(1) + (features * self.label(label)).sum(dim=1)
        return logits


def dcgan_init(module: nn.Module) -> None:
    """Weights from N(0, 0.02), batch-norm gains from N(1, 0.02), as in section 4 of the paper."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
