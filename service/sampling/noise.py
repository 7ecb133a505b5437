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
        self._generator = torch.Generator()
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Become the noise of another picture."""
        self._generator.manual_seed(seed)

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The next standard normal values, float32 on the CPU."""
        return self.fill(torch.empty(tuple(shape)))

    def fill(self, place: Tensor) -> Tensor:
        """``draw`` into a tensor, contiguous float32 on the CPU; returns it."""
        return place.normal_(generator=self._generator)


def draw_each(seeds: list[int], place: Tensor) -> None:
    """Fill each row of (rows, *latent), contiguous float32 on the CPU, with the first draw of its seed's noise.

    One call for all rows, compiled, because every call of torch lets go of the interpreter's lock: under load, drawing
    row by row waits for the event loop once a row.
    """
    _draw_each(seeds, place, torch.Generator())


@torch.jit.script
def _draw_each(seeds: list[int], place: Tensor, generator: torch.Generator) -> None:
    # The generator is the caller's: one made here would be folded into a constant, which all threads share.
    for row, seed in enumerate(seeds):
        generator.manual_seed(seed)
        place[row].normal_(generator=generator)
