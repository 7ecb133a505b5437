"""The arithmetic of one tick: one network call for rows of any plan, pictures for those that reached their end.

Pure: the batch comes in as tensors and the results go out as tensors, so a batch that raises can be run again in
halves until the row at fault is alone.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.model import Model
from service.sampling.pixels import to_uint8
from service.sampling.step import predict_x_start, update

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batch:
    """One tick's rows. Tensors are on the model's device, flags on the host; all have one entry a row.

    ``x`` and ``x_start_prev`` (rows, *latent); ``label`` (rows,) int64; ``coefficients`` (rows, 5): t, a, b, c, d;
    ``noise`` (rows, *latent), or None when no row adds any; ``guided`` rows take two in the call; ``ending`` rows are
    at the last step of their plan.
    """

    x: Tensor
    x_start_prev: Tensor
    label: Tensor
    guidance_scale: Tensor
    coefficients: Tensor
    noise: Tensor | None
    guided: Flags
    ending: Flags

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: slice) -> "Batch":
        """Some of the rows."""
        return Batch(
            self.x[rows],
            self.x_start_prev[rows],
            self.label[rows],
            self.guidance_scale[rows],
            self.coefficients[rows],
            None if self.noise is None else self.noise[rows],
            self.guided[rows],
            self.ending[rows],
        )


@dataclass(frozen=True, slots=True)
class Stepped:
    """The rows one step further. ``pictures`` (ending rows, height, width, channel) uint8 are on the host.

    ``usable`` says for each ending row whether its picture is made of finite numbers.
    """

    x: Tensor
    x_start: Tensor
    pictures: npt.NDArray[np.uint8]
    usable: Flags


@torch.inference_mode()
def run(model: Model, batch: Batch) -> Stepped:
    """Denoise, guide, clamp and update every row, then decode those that end."""
    x, x_start = batch.x, batch.x_start_prev
    if model.denoise is not None:
        positions = np.flatnonzero(batch.guided)
        x_start = predict_x_start(
            model.denoise,
            x,
            batch.coefficients[:, 0],
            batch.label,
            model.manifest.null_label,
            batch.guidance_scale,
            torch.from_numpy(positions).to(x.device) if len(positions) else None,
            model.manifest.x0_range,
        )
        x = update(x, x_start, batch.x_start_prev, batch.coefficients[:, 1:], batch.noise)
    pictures, usable = _decode(model, x, batch)
    return Stepped(x, x_start, pictures, usable)


def run_isolating(model: Model, batch: Batch) -> list[tuple[slice, Stepped | Exception]]:
    """``run``, in halves where it raises: every row's step, or the exception that a row of its own raises.

    Returns the batch in consecutive slices; one that failed holds one row. A batch of n rows with one at fault costs
    at most 2 log2(n) further calls.
    """
    return _isolate(model, batch, slice(0, len(batch)))


def _isolate(model: Model, batch: Batch, rows: slice) -> list[tuple[slice, Stepped | Exception]]:
    try:
        return [(rows, run(model, batch.part(rows)))]
    except Exception as failure:  # whatever a model raises concerns its rows, never the thread
        if rows.stop - rows.start == 1:
            return [(rows, failure)]
        middle = (rows.start + rows.stop) // 2
        first, second = slice(rows.start, middle), slice(middle, rows.stop)
        return _isolate(model, batch, first) + _isolate(model, batch, second)


def _decode(model: Model, x: Tensor, batch: Batch) -> tuple[npt.NDArray[np.uint8], Flags]:
    positions = np.flatnonzero(batch.ending)
    if len(positions) == 0:
        height_width = model.manifest.image_shape[1:]
        return np.empty((0, *height_width, model.manifest.image_shape[0]), np.uint8), np.empty(0, np.bool_)
    index = torch.from_numpy(positions).to(x.device)
    images = model.decode(x[index], batch.label[index])
    usable = images.flatten(1).isfinite().all(dim=1)
    # A NaN becomes some grey level in uint8 and would pass for a picture: hence the flags beside it.
    return to_uint8(images.nan_to_num()).cpu().numpy(), usable.cpu().numpy()
