"""Forward passes at fixed batch sizes: for bit-identical pictures, and for CUDA graphs.

A batch between two sizes is padded; a batch above the largest is split. On a GPU each size is captured once as a CUDA
graph with its own buffers and then replayed, which saves launching its kernels one by one.
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

#: Calls before a capture: TorchScript compiles during its first calls, which a capture does not allow.
CALLS_BEFORE_CAPTURE = 5


def at_fixed_sizes(model: Model, sizes: Sequence[int]) -> Model:
    """``model`` with its parts computed only at these batch sizes; on a GPU as captured graphs."""
    part = GraphedPart if model.device.type == "cuda" else PaddedPart
    return replace(
        model,
        decode=part(model.decode, sizes),
        denoise=None if model.denoise is None else part(model.denoise, sizes),
        batch_sizes=tuple(sorted(sizes)),
    )


class PaddedPart:
    """A part of a model computed only at batches of ``sizes`` rows, for inputs (batch, ...) of any size."""

    def __init__(self, part: Part, sizes: Sequence[int]) -> None:
        self._part, self._sizes = part, sorted(sizes)

    def __call__(self, *batch: Tensor) -> Tensor:
        """The part's result for ``batch``, without the padding rows."""
        rows, largest = len(batch[0]), self._sizes[-1]
        if rows <= largest:
            return self._call(self._sizes[bisect_left(self._sizes, rows)], batch)[:rows]
        pieces = zip(*(torch.split(tensor, largest) for tensor in batch), strict=True)
        return torch.cat([self(*piece) for piece in pieces])

    def _call(self, size: int, batch: Sequence[Tensor]) -> Tensor:
        """The result at ``size`` rows; those after the rows of ``batch`` are padding."""
        return self._part(*(_padded(tensor, size) for tensor in batch))


class GraphedPart(PaddedPart):
    """As ``PaddedPart``, with each size captured at its first call, during warm-up. For one thread only."""

    def __init__(self, part: Part, sizes: Sequence[int]) -> None:
        super().__init__(part, sizes)
        self._graphs: dict[int, _Graph | None] = {}

    def _call(self, size: int, batch: Sequence[Tensor]) -> Tensor:
        if size not in self._graphs:
            self._graphs[size] = _capture(self._part, [_padded(tensor, size) for tensor in batch])
        graph = self._graphs[size]
        return super()._call(size, batch) if graph is None else graph.replay(batch)


class _Graph:
    """A part captured over static buffers.

    A replay is ordered in the current stream after the copies to its inputs and before the copy of its output, so one
    thread may replay repeatedly without waiting.
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
        # By default a capture fails if any thread allocates; another thread may be loading a version.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = part(*self._inputs)

    def replay(self, batch: Sequence[Tensor]) -> Tensor:
        """The result for ``batch``; padding rows keep what the buffers held before."""
        rows = len(batch[0])
        for buffer, tensor in zip(self._inputs, batch, strict=True):
            buffer[:rows].copy_(tensor)
        self._graph.replay()
        return self._output[:rows].clone()  # the next replay overwrites it


def _capture(part: Part, example: Sequence[Tensor]) -> _Graph | None:
    """A graph of ``part`` at the size of ``example``; None if it cannot be captured and must be called directly."""
    # A failed capture leaves torch.cuda.graph's stream current, unordered with other work: the outer context restores
    # the previous stream.
    with torch.cuda.stream(torch.cuda.current_stream(example[0].device)):
        try:
            return _Graph(part, example)
        except Exception as failure:  # TorchScript's errors are not RuntimeErrors
            log.warning("no CUDA graph", extra={"rows": len(example[0]), "reason": repr(failure)[:MAX_REASON]})
            return None


def _padded(tensor: Tensor, size: int) -> Tensor:
    """``tensor`` padded to ``size`` rows with copies of its last row, a valid input."""
    missing = size - len(tensor)
    return tensor if missing == 0 else torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
