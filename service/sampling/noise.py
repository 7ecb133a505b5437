"""The noise of a picture: it depends only on the picture's seed, not on its batch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def image_seed(seed: int, index: int) -> int:
    """The seed of picture `index` of a request, in [0, 2**32): picture i of seed s is picture 0 of seed s + i."""
    return (seed + index) % 2**32


class RowNoise:
    """One picture's noise: the first draw is the starting latent, later draws are the solver's noise.

    Drawn on the CPU, so that it is the same for every device.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator()
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Restart as the noise of another seed."""
        self._generator.manual_seed(seed)

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The next standard normal values, float32 on the CPU."""
        return self.fill(torch.empty(tuple(shape)))

    def fill(self, place: Tensor) -> Tensor:
        """``draw`` into a tensor, contiguous float32 on the CPU; returns it."""
        return place.normal_(generator=self._generator)


def draw_each(seeds: list[int], place: Tensor) -> None:
    """Fill each row of (rows, *latent), contiguous float32 on the CPU, with the first draw of its seed's noise.

    One scripted call for all rows: every torch call releases the interpreter's lock, so a Python loop would wait for
    the event loop once per row.
    """
    _draw_each(seeds, place, torch.Generator())


@torch.jit.script
def _draw_each(seeds: list[int], place: Tensor, generator: torch.Generator) -> None:
    # A generator created here would become a constant of the graph, shared by all threads.
    for row, seed in enumerate(seeds):
        generator.manual_seed(seed)
        place[row].normal_(generator=generator)
