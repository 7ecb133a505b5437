"""Noise that belongs to a picture: it depends on the picture's seed and on nothing else in the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def image_seed(seed: int, index: int) -> int:
    """The seed of a request's picture, in [0, 2**32): picture i of seed s is picture 0 of seed s + i."""
    return (seed + index) % 2**32


class RowNoise:
    """One picture's noise: the first draw is its starting latent, later ones its solver's noise.

    The generator is the CPU's, whatever computes the picture: its stream is the same beside every device.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The next standard normal values, float32 on the CPU."""
        return torch.randn(tuple(shape), generator=self._generator, dtype=torch.float32)
