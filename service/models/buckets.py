"""Forward passes at fixed batch sizes: for bit-identical pictures, and for CUDA graphs.

A batch between two sizes is padded; a batch above the largest is split. On a GPU each size is captured once as a CUDA
graph with its own buffers and then replayed, which saves launching its kernels one by one.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from service.contract.manifest import MAX_REASON
from service.engine.model import Model
from service.engine.rows import Adapter

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

    def __call__(self, *batch: Any, adapters: Sequence[Adapter | None] = ()) -> Tensor:  # noqa: ANN401
        """The part's result for ``batch``, whose last argument is the inputs, without the padding rows."""
        *tensors, inputs = batch
        flat = [*tensors, *inputs.values()]
        rows, largest, names = len(flat[0]), self._sizes[-1], tuple(inputs)
        if rows <= largest:
            return self._piece(flat, names, adapters)
        pieces = [slice(start, start + largest) for start in range(0, rows, largest)]
        return torch.cat([self._piece([tensor[rows] for tensor in flat], names, adapters[rows]) for rows in pieces])

    def _piece(self, flat: Sequence[Tensor], names: tuple[str, ...], adapters: Sequence[Adapter | None]) -> Tensor:
        """The result for ``flat`` tensors, the last of which are the inputs of these ``names``."""
        rows = len(flat[0])
        return self._call(self._sizes[bisect_left(self._sizes, rows)], flat, names, adapters)[:rows]

    def _call(
        self, size: int, flat: Sequence[Tensor], names: tuple[str, ...], adapters: Sequence[Adapter | None]
    ) -> Tensor:
        """The result at ``size`` rows; those after the rows of ``flat`` are padding."""
        padded = [_padded(tensor, size) for tensor in flat]
        adapted = {"adapters": [*adapters, *[adapters[-1]] * (size - len(adapters))]} if adapters else {}
        return _by_name(self._part, names)(*padded, **adapted)


class GraphedPart(PaddedPart):
    """As ``PaddedPart``, with a graph for each size and each set of inputs, captured at its first call.

    Those of the sizes with all required inputs are captured during warm-up. For one thread only. A call with LoRAs has
    no graph: its kernels depend on which rows have which.
    """

    def __init__(self, part: Part, sizes: Sequence[int]) -> None:
        super().__init__(part, sizes)
        self._graphs: dict[tuple[int, tuple[str, ...]], _Graph | None] = {}

    def _call(
        self, size: int, flat: Sequence[Tensor], names: tuple[str, ...], adapters: Sequence[Adapter | None]
    ) -> Tensor:
        if adapters:
            return super()._call(size, flat, names, adapters)
        if (size, names) not in self._graphs:
            part = _by_name(self._part, names)
            self._graphs[size, names] = _capture(part, [_padded(tensor, size) for tensor in flat])
        graph = self._graphs[size, names]
        return super()._call(size, flat, names, ()) if graph is None else graph.replay(flat)


def _by_name(part: Part, names: Sequence[str]) -> Part:
    """``part`` with its inputs as further arguments."""

    def call(*flat: Tensor, **adapted: Any) -> Tensor:  # noqa: ANN401
        first = len(flat) - len(names)
        return part(*flat[:first], dict(zip(names, flat[first:], strict=True)), **adapted)

    return call


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
