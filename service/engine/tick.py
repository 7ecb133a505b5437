"""The arithmetic of one tick: one network call for rows of any plan, pictures for those that reached their end.

Pure: the batch comes in as tensors and the results go out as tensors, so a batch that raises can be run again in
halves until the row at fault is alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.model import Model
from service.engine.transfer import to_device, to_host
from service.sampling.pixels import to_uint8
from service.sampling.step import predict_x_start, update

Flags = npt.NDArray[np.bool_]

#: Told of a batch whose call raised, and what it raised.
Failed = Callable[["Batch", Exception], None]


@dataclass(frozen=True, slots=True)
class Step:
    """What a solver step needs beside the latents, an entry a row.

    ``x_start_prev`` (rows, *latent); ``guidance_scale`` (rows,); ``coefficients`` (rows, 5): t, a, b, c, d; ``noise``
    (rows, *latent), or None when no row adds any; ``guided``, on the host: which rows take two in the call.
    """

    x_start_prev: Tensor
    guidance_scale: Tensor
    coefficients: Tensor
    noise: Tensor | None
    guided: Flags

    def part(self, rows: slice) -> "Step":
        """Some of the rows."""
        return Step(
            self.x_start_prev[rows],
            self.guidance_scale[rows],
            self.coefficients[rows],
            None if self.noise is None else self.noise[rows],
            self.guided[rows],
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """One tick's rows, on the model's device: ``x`` (rows, *latent) and ``label`` (rows,) int64.

    ``ending``, on the host, says which rows are at the end of their plan; ``step`` is None for a model without steps.
    """

    x: Tensor
    label: Tensor
    ending: Flags
    step: Step | None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def call_rows(self) -> int:
        """Rows of the network call: a guided one is two."""
        return len(self) + (0 if self.step is None else int(self.step.guided.sum()))

    def part(self, rows: slice) -> "Batch":
        """Some of the rows."""
        step = None if self.step is None else self.step.part(rows)
        return Batch(self.x[rows], self.label[rows], self.ending[rows], step)


@dataclass(frozen=True, slots=True)
class Stepped:
    """The rows one step further. ``pictures`` (ending rows, height, width, channel) uint8 are on the host.

    ``x_start`` is what the network predicted, ``x`` itself for a model without steps. ``usable`` says for each ending
    row whether its picture is made of finite numbers: what a NaN becomes in uint8 would pass for a picture.
    """

    x: Tensor
    x_start: Tensor
    pictures: npt.NDArray[np.uint8]
    usable: Flags


@torch.inference_mode()
def run(model: Model, batch: Batch) -> Stepped:
    """Denoise, guide, clamp and update every row, then decode those that end."""
    x = x_start = batch.x
    if batch.step is not None:
        x_start = _predict(model, batch, batch.step)
        x = update(x, x_start, batch.step.x_start_prev, batch.step.coefficients[:, 1:], batch.step.noise)
    pictures, usable = _decode(model, x, batch)
    return Stepped(x, x_start, pictures, usable)


def run_isolating(model: Model, batch: Batch, failed: Failed) -> list[tuple[slice, Stepped | Exception]]:
    """``run``, in halves where it raises: every row's step, or the exception that a row of its own raises.

    Returns the batch in consecutive slices; one that failed holds one row. A batch of n rows with one at fault costs
    at most 2 log2(n) further calls. ``failed`` is told of every call that raises.
    """
    return _isolate(model, batch, slice(0, len(batch)), failed)


def _isolate(model: Model, batch: Batch, rows: slice, failed: Failed) -> list[tuple[slice, Stepped | Exception]]:
    size = rows.stop - rows.start
    part = batch if size == len(batch) else batch.part(rows)
    try:
        return [(rows, run(model, part))]
    except Exception as failure:  # whatever a model raises concerns its rows, never the thread
        # Without its traceback, which would keep the call's tensors alive while the halves want their memory.
        failure.__traceback__ = None
        raised = failure
    failed(part, raised)
    if isinstance(raised, torch.OutOfMemoryError) and model.device.type == "cuda":
        torch.cuda.empty_cache()
    if size == 1:
        return [(rows, raised)]
    middle = (rows.start + rows.stop) // 2
    halves = slice(rows.start, middle), slice(middle, rows.stop)
    return [result for half in halves for result in _isolate(model, batch, half, failed)]


def _predict(model: Model, batch: Batch, step: Step) -> Tensor:
    assert model.denoise is not None
    guided = np.flatnonzero(step.guided)
    return predict_x_start(
        model.denoise,
        batch.x,
        step.coefficients[:, 0],
        batch.label,
        model.manifest.null_label,
        step.guidance_scale,
        to_device(torch.from_numpy(guided), model.device) if len(guided) else None,
        model.manifest.x0_range,
    )


def _decode(model: Model, x: Tensor, batch: Batch) -> tuple[npt.NDArray[np.uint8], Flags]:
    if not batch.ending.any():
        channel, height, width = model.manifest.image_shape
        return np.empty((0, height, width, channel), np.uint8), np.empty(0, np.bool_)
    label = batch.label
    if not batch.ending.all():
        index = to_device(torch.from_numpy(np.flatnonzero(batch.ending)), x.device)
        x, label = x[index], label[index]
    pictures, usable = to_host(*_finish(model.decode(x, label)))
    return pictures.numpy(), usable.numpy()


def _as_pictures(images: Tensor) -> tuple[Tensor, Tensor]:
    return to_uint8(images), images.flatten(1).isfinite().all(dim=1)


# Compiled into one call, because every call of torch lets go of the interpreter's lock and waits for it again.
_finish = torch.jit.script(_as_pictures)
