"""Random numbers that belong to the batch, however many processes or micro-batches it is taken apart into."""

import torch
from torch import Tensor


class Draws:
    """Draws for the whole batch, of which a part of it takes its rows.

    A batch is cut into ``parts`` of as many rows each. Every part draws the same numbers, in the same order, for all
    rows and keeps its own, so that neither the cut nor the number of processes changes what a picture meets.
    """

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator(device)
        self._part, self._parts = 0, 1

    def restart(self, seed: int, part: int = 0, parts: int = 1) -> None:
        """Begin a batch: its numbers follow from ``seed``, and the rows wanted are those of ``part`` of ``parts``."""
        self._generator.manual_seed(seed)
        self._part, self._parts = part, parts

    def randn(self, *shape: int) -> Tensor:
        """Standard normal float32; ``shape`` is (rows of this part, ...), as in the other methods."""
        return self._own(torch.randn(self._whole(shape), generator=self._generator, device=self._generator.device))

    def randn_like(self, rows: Tensor) -> Tensor:
        """Standard normal numbers in the shape and type of ``rows``."""
        return self.randn(*rows.shape).to(rows.dtype)

    def rand(self, *shape: int) -> Tensor:
        """Uniform float32 in [0, 1)."""
        return self._own(torch.rand(self._whole(shape), generator=self._generator, device=self._generator.device))

    def randint(self, high: int, *shape: int) -> Tensor:
        """Uniform int64 in 0 .. high - 1."""
        whole = self._whole(shape)
        return self._own(torch.randint(high, whole, generator=self._generator, device=self._generator.device))

    def _whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self._parts * shape[0], *shape[1:])

    def _own(self, whole: Tensor) -> Tensor:
        return whole.chunk(self._parts)[self._part]


def step_seed(seed: int, step: int) -> int:
    """The seed, below 2^32, of a run's batch number ``step``: no two batches of a run share one."""
    return (seed * 2_654_435_761 + step) % 2**32


def seed_dropout(batch_seed: int, part: int) -> None:
    """Seed torch's own generators, which dropout uses: every part of every batch has masks of its own."""
    torch.manual_seed((batch_seed + (part + 1) * 0x9E37_79B9) % 2**32)
