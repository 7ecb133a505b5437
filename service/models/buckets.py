"""Network calls at fixed numbers of rows: what makes pictures the same to the bit, and what a captured graph needs.

A batch between two sizes is filled up; a batch beyond the largest is cut. On a GPU every size is captured once as a
CUDA graph over buffers of its own and then replayed, which spares launching its kernels one by one.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from service.contract.manifest import MAX_REASON
from service.engine.model import Model

log = logging.getLogger(__name__)

Part = Callable[..., Tensor]

#: Calls before a capture: TorchScript compiles in its first ones, and must not while it is recorded.
CALLS_BEFORE_CAPTURE = 5


def at_fixed_sizes(model: Model, sizes: Sequence[int]) -> Model:
    """``model`` with its parts called at these numbers of rows only, as captured graphs where it is on a GPU."""
    part = GraphedPart if model.device.type == "cuda" else PaddedPart
    return replace(
        model,
        decode=part(model.decode, sizes),
        denoise=None if model.denoise is None else part(model.denoise, sizes),
        batch_sizes=tuple(sorted(sizes)),
    )


class PaddedPart:
    """A part of a model called with ``sizes`` rows only; takes and gives tensors (batch, ...) of any batch."""

    def __init__(self, part: Part, sizes: Sequence[int]) -> None:
        self._part, self._sizes = part, sorted(sizes)

    def __call__(self, *batch: Tensor) -> Tensor:
        """The part's result for ``batch``; what rows of padding give is thrown away."""
        rows, largest = len(batch[0]), self._sizes[-1]
        if rows <= largest:
            return self._call(self._sizes[bisect_left(self._sizes, rows)], batch)[:rows]
        pieces = zip(*(torch.split(tensor, largest) for tensor in batch), strict=True)
        return torch.cat([self(*piece) for piece in pieces])

    def _call(self, size: int, batch: Sequence[Tensor]) -> Tensor:
        """At least as many rows as ``batch`` has, computed at ``size``."""
        return self._part(*(_filled(tensor, size) for tensor in batch))


class GraphedPart(PaddedPart):
    """The same with each size captured when it is first called, which warm-up does. For one thread."""

    def __init__(self, part: Part, sizes: Sequence[int]) -> None:
        super().__init__(part, sizes)
        self._graphs: dict[int, _Graph | None] = {}

    def _call(self, size: int, batch: Sequence[Tensor]) -> Tensor:
        if size not in self._graphs:
            self._graphs[size] = _capture(self._part, [_filled(tensor, size) for tensor in batch])
        graph = self._graphs[size]
        return super()._call(size, batch) if graph is None else graph.replay(batch)


class _Graph:
    """A part recorded over static buffers.

    Its replays take their place in the current stream, after the copies into its inputs and before the copy of its
    output, so one thread may replay it again and again without waiting.
    """

    def __init__(self, part: Part, example: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in example]
        device = example[0].device
        current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(CALLS_BEFORE_CAPTURE):
                part(*self._inputs)
        current.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # By default a capture fails when any thread allocates meanwhile: one that loads another version may.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = part(*self._inputs)

    def replay(self, batch: Sequence[Tensor]) -> Tensor:
        """The rows of ``batch``; padding is whatever the buffers held before."""
        rows = len(batch[0])
        for buffer, tensor in zip(self._inputs, batch, strict=True):
            buffer[:rows].copy_(tensor)
        self._graph.replay()
        return self._output[:rows].clone()  # the next replay overwrites it


def _capture(part: Part, example: Sequence[Tensor]) -> _Graph | None:
    """A graph of ``part`` at the size of ``example``, or None where it cannot be captured and is called as it is."""
    # torch.cuda.graph leaves its own stream the current one when a capture fails, and nothing would order what runs
    # there with the rest: the outer context puts back what was current.
    with torch.cuda.stream(torch.cuda.current_stream(example[0].device)):
        try:
            return _Graph(part, example)
        except Exception as failure:  # TorchScript's own errors are no RuntimeErrors
            log.warning("no CUDA graph", extra={"rows": len(example[0]), "reason": repr(failure)[:MAX_REASON]})
            return None


def _filled(tensor: Tensor, size: int) -> Tensor:
    """``size`` rows: those of ``tensor`` and copies of its last one, which is as usable as any."""
    missing = size - len(tensor)
    return tensor if missing == 0 else torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
