"""The arithmetic of one tick: one network call for rows of any plan, pictures for those that reached their end.

Pure: the batch comes in as tensors and the results go out as tensors, so a batch that raises can be run again in
halves until the row at fault is alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.model import Model
from service.engine.results import Latent, Picture, Result
from service.engine.rows import FilmKind
from service.engine.transfer import to_device, to_device_together, to_host
from service.sampling.step import Guidance, Inpaint, predict_x_start, update

Flags = npt.NDArray[np.bool_]

#: What of a row an ``Extras`` wants shown, one bit each.
X_START, X_T = 1, 2
PREVIEW_BITS: dict[FilmKind, int] = {"x0": X_START, "xt": X_T, "both": X_START | X_T}

#: In the place of a result that is not usable.
NOTHING: Picture = np.empty(0, np.uint8)

#: Told of a batch whose call raised, and what it raised.
Failed = Callable[["Batch", Exception], None]


@dataclass(frozen=True, slots=True)
class Extras:
    """What rows want beside pictures at their ends, an entry a row, on the host.

    ``as_latent`` says which end as a latent; ``shows`` what of this step is to be shown, the bits X_START and X_T.
    """

    as_latent: Flags
    previews: npt.NDArray[np.int64]

    def part(self, rows: slice) -> "Extras":
        """Some of the rows."""
        return Extras(self.as_latent[rows], self.previews[rows])


@dataclass(frozen=True, slots=True)
class Step:
    """What a solver step needs beside the latents, an entry a row.

    On the device: ``x_start_prev`` (rows, *latent); ``coefficients`` (rows, 5): t, a, b, c, d; ``noise`` (rows,
    *latent), or None when no row adds any; ``inpaint`` (rows, *latent) each, or None when no row has a mask.
    On the host: ``guided``, which rows take two in the call, and, read of those alone, ``guidance_scale`` and
    ``negative_label``; ``asks``, or None when no row wants anything but its picture.
    """

    x_start_prev: Tensor
    coefficients: Tensor
    guided: Flags
    guidance_scale: npt.NDArray[np.float32]
    negative_label: npt.NDArray[np.int64]
    noise: Tensor | None = None
    inpaint: Inpaint | None = None
    extras: Extras | None = None

    def part(self, rows: slice) -> "Step":
        """Some of the rows."""
        return Step(
            self.x_start_prev[rows],
            self.coefficients[rows],
            self.guided[rows],
            self.guidance_scale[rows],
            self.negative_label[rows],
            None if self.noise is None else self.noise[rows],
            None if self.inpaint is None else Inpaint(*(tensor[rows] for tensor in self.inpaint)),
            None if self.extras is None else self.extras.part(rows),
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
    def forward_rows(self) -> int:
        """Rows of the network call: a guided one is two."""
        return len(self) + (0 if self.step is None else int(self.step.guided.sum()))

    def part(self, rows: slice) -> "Batch":
        """Some of the rows."""
        step = None if self.step is None else self.step.part(rows)
        return Batch(self.x[rows], self.label[rows], self.ending[rows], step)


class StepPreview(NamedTuple):
    """What row ``row`` of the batch wanted shown: its prediction of the clean latent, its noisy latent, decoded."""

    row: int
    x_start: Picture | None
    x_t: Picture | None


@dataclass(frozen=True, slots=True)
class StepResult:
    """The rows one step further, and on the host what they give.

    ``x_start`` is what the network predicted, ``x`` itself for a model without steps. ``results`` are those of the
    ending rows, in their order; ``usable`` says of each whether it is made of finite numbers: what a NaN becomes in
    uint8 would pass for a picture. ``previews`` are of rows that wanted one, as far as they are finite.
    """

    x: Tensor
    x_start: Tensor
    results: Sequence[Result] | npt.NDArray[Any]
    usable: Flags
    previews: Sequence[StepPreview] = ()


@torch.inference_mode()
def run(model: Model, batch: Batch) -> StepResult:
    """Denoise, guide, clamp, inpaint and update every row, then decode those that end."""
    step = batch.step
    if step is None:
        return StepResult(batch.x, batch.x, *_decode(model, batch.x, batch.label, batch.ending))
    x_start = _predict(model, batch, step)
    x = update(batch.x, x_start, step.x_start_prev, step.coefficients[:, 1:], step.noise)
    if step.extras is None:
        return StepResult(x, x_start, *_decode(model, x, batch.label, batch.ending))
    return _answer(model, x, x_start, batch, step.extras)


def run_isolating(model: Model, batch: Batch, failed: Failed) -> list[tuple[slice, StepResult | Exception]]:
    """``run``, in halves where it raises: every row's step, or the exception that a row of its own raises.

    Returns the batch in consecutive slices; one that failed holds one row. A batch of n rows with one at fault costs
    at most 2 log2(n) further calls. ``failed`` is told of every call that raises.
    """
    return _isolate(model, batch, slice(0, len(batch)), failed)


def _isolate(model: Model, batch: Batch, rows: slice, failed: Failed) -> list[tuple[slice, StepResult | Exception]]:
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
    return predict_x_start(
        model.denoise,
        batch.x,
        step.coefficients[:, 0],
        batch.label,
        _guidance(step, model.device) if step.guided.any() else None,
        step.inpaint,
        model.manifest.x0_range,
    )


def _guidance(step: Step, device: torch.device) -> Guidance:
    rows = np.flatnonzero(step.guided)
    columns = rows, step.guidance_scale[rows], step.negative_label[rows]
    return Guidance(*to_device_together([torch.from_numpy(column) for column in columns], device))


def _decode(model: Model, x: Tensor, label: Tensor, shown: Flags) -> tuple[npt.NDArray[np.uint8], Flags]:
    """Results (shown rows, ...) on the host, and which are finite."""
    if not shown.any():
        return np.empty((0, *model.result_shape), np.uint8), np.empty(0, np.bool_)
    if not shown.all():
        index = _index(shown, x.device)
        x, label = x[index], label[index]
    results, usable = to_host(*model.finish(model.decode(x, label)))
    return results.numpy(), usable.numpy()


def _answer(model: Model, x: Tensor, x_start: Tensor, batch: Batch, extras: Extras) -> StepResult:
    """The step of rows that want more than pictures at their ends: decoded in one call, copied once."""
    shown = [batch.ending & ~extras.as_latent, extras.previews & X_START != 0, extras.previews & X_T != 0]
    flags, rows = np.concatenate(shown), len(batch)
    made = _by_place(flags, *_decode(model, torch.cat([x, x_start, batch.x]), batch.label.repeat(3), flags))
    previews = [
        StepPreview(row, made.get(rows + row), made.get(2 * rows + row))
        for row in np.flatnonzero(extras.previews).tolist()
        if rows + row in made or 2 * rows + row in made
    ]
    results: dict[int, Result] = {**made, **_latents(x, batch.ending & extras.as_latent)}
    ending = np.flatnonzero(batch.ending).tolist()
    usable = np.array([row in results for row in ending], dtype=np.bool_)
    return StepResult(x, x_start, [results.get(row, NOTHING) for row in ending], usable, previews)


def _latents(x: Tensor, wanted: Flags) -> dict[int, Latent]:
    if not wanted.any():
        return {}
    chosen = x[_index(wanted, x.device)]
    latents, usable = to_host(chosen, chosen.flatten(1).isfinite().all(dim=1))
    return _by_place(wanted, latents.numpy(), usable.numpy())


def _by_place(shown: Flags, values: npt.NDArray[np.generic], usable: Flags) -> dict[int, npt.NDArray[Any]]:
    """The values that are finite, by the places of those that were shown."""
    places = np.flatnonzero(shown).tolist()
    return {place: value for place, value, good in zip(places, values, usable, strict=True) if good}


def _index(shown: Flags, device: torch.device) -> Tensor:
    return to_device(torch.from_numpy(np.flatnonzero(shown)), device)
