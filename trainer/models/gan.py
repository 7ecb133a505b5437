"""A residual discriminator without normalisation, class-conditional; its generator is the pyramid's decoder.

It follows Huang et al. 2024, "The GAN is dead; long live the GAN!" (R3GAN, arXiv 2501.05441) in outline: residual
blocks, no normalisation in the discriminator, no minibatch statistics. Class conditioning is as in
`trainer.models.dcgan`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.unet import zeroed


class PlainBlock(nn.Module):
    """A residual block of two convolutions without normalisation; the second starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv_out(F.leaky_relu(self.conv_in(F.leaky_relu(x, 0.2)), 0.2))
        return x + residual


class Discriminator(nn.Module):
    """(batch, channel, height, width) in [-1, 1], (batch,) int64 -> logits (batch,).

    ``width`` channels per patch of ``patch`` x ``patch`` pixels, and twice as many for 2 x 2 patches.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, width: int, blocks: int, patch: int = 2
    ) -> None:
        super().__init__()
        channel, height, image_width = image_shape
        wide, self.patch = 2 * width, patch
        self.stem = nn.Conv2d(patch * patch * channel, width, 3, padding=1)
        self.fine = nn.Sequential(*(PlainBlock(width) for _ in range(blocks)))
        self.downsample = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(PlainBlock(wide) for _ in range(blocks)))
        self.features = nn.Linear(wide * (height // (2 * patch)) * (image_width // (2 * patch)), 2 * wide)
        self.out = nn.Linear(2 * wide, 1)
        self.label = nn.Embedding(classes + 1, 2 * wide)
        nn.init.normal_(self.label.weight, 0.0, 0.02)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        hidden = self.fine(self.stem(F.pixel_unshuffle(image, self.patch)))  # (B, W, H/P, W/P)
        hidden = F.leaky_relu(self.coarse(self.downsample(hidden)), 0.2)  # (B, 2W, H/2P, W/2P)
        features = F.leaky_relu(self.features(hidden.flatten(1)), 0.2)  # (B, 4W)
        logits: Tensor = self.out(features).squeeze(1) + (features * self.label(label)).sum(dim=1)
        return logits
