"""Random numbers of a batch that do not depend on its division into processes and micro-batches."""

import torch
from torch import Tensor


class Draws:
    """A random number generator for one part of a batch.

    A batch is divided into ``parts`` of equal size. Every part draws the numbers of the whole batch in the same order
    and keeps those of its own rows, so that an image gets the same numbers for any division.
    """

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator(device)
        self._part, self._parts = 0, 1

    def restart(self, seed: int, part: int = 0, parts: int = 1) -> None:
        """Start a batch with ``seed``; the following draws are for the rows of ``part`` (from 0) of ``parts``."""
        self._generator.manual_seed(seed)
        self._part, self._parts = part, parts

    def randn(self, *shape: int) -> Tensor:
        """Standard normal float32; ``shape`` is (rows of this part, ...), as in the other methods."""
        return self._own(torch.randn(self._whole(shape), generator=self._generator, device=self._generator.device))

    def randn_like(self, rows: Tensor) -> Tensor:
        """Standard normal numbers with the shape and dtype of ``rows``."""
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
    """The seed, below 2^32, of batch number ``step``: it differs for all batches of a run."""
    return (seed * 2_654_435_761 + step) % 2**32


def seed_dropout(batch_seed: int, part: int) -> None:
    """Seed torch's global generators, which dropout uses: every part of every batch has its own masks."""
    torch.manual_seed((batch_seed + (part + 1) * 0x9E37_79B9) % 2**32)
