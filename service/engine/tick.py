"""The arithmetic of one tick: one forward pass for rows of any plan, and decoding of those that end.

Pure functions of tensors, so a batch that raises can be run again in halves until the faulty row is alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.model import Model
from service.engine.results import Latent, Picture, Result
from service.engine.rows import Adapter, FilmKind
from service.engine.transfer import to_device, to_host
from service.sampling.step import (
    Denoise,
    Guidance,
    Inpaint,
    Inputs,
    clip_x_start,
    keep_known,
    predict,
    predict_x_start,
    update,
    x_start_from,
)

Flags = npt.NDArray[np.bool_]

#: Bits of ``Extras.previews``.
X_START, X_T = 1, 2
PREVIEW_BITS: dict[FilmKind, int] = {"x0": X_START, "xt": X_T, "both": X_START | X_T}

#: Placeholder for a result that is not usable.
NOTHING: Picture = np.empty(0, np.uint8)

#: Called with a batch that raised, and the exception.
Failed = Callable[["Batch", Exception], None]


@dataclass(frozen=True, slots=True)
class Extras:
    """Outputs besides final pictures, one entry per row, on the host.

    ``as_latent``: the row ends as a latent. ``previews``: what to show of this step, the bits X_START and X_T.
    """

    as_latent: Flags
    previews: npt.NDArray[np.int64]

    def part(self, rows: slice) -> "Extras":
        """A slice of the rows."""
        return Extras(self.as_latent[rows], self.previews[rows])


@dataclass(frozen=True, slots=True)
class Step:
    """The inputs of a solver step besides the latents, one entry per row.

    On the device: ``x_start_prev`` (rows, *latent); ``coefficients`` (rows, 5): t, a, b, c, d; ``noise`` (rows,
    *latent), None when no row adds noise; ``inpaint`` (rows, *latent) each, None when no row has a mask; ``guidance``
    of the guided rows, None when there is none; ``levels`` (rows, 2, 4), those of ``Plan.levels`` at this step and at
    the next, None where the network predicts the clean latent.
    On the host: ``guided`` rows count twice in the forward pass; ``extras``, None when all outputs are final pictures;
    ``clips``, whether a bound in ``levels`` is finite.
    """

    x_start_prev: Tensor
    coefficients: Tensor
    guided: Flags
    guidance: Guidance | None = None
    noise: Tensor | None = None
    inpaint: Inpaint | None = None
    extras: Extras | None = None
    levels: Tensor | None = None
    clips: bool = False

    def part(self, rows: slice) -> "Step":
        """A slice of the rows."""
        return Step(
            self.x_start_prev[rows],
            self.coefficients[rows],
            self.guided[rows],
            self._guidance(rows),
            _part(self.noise, rows),
            None if self.inpaint is None else Inpaint(*(_part(tensor, rows) for tensor in self.inpaint)),
            None if self.extras is None else self.extras.part(rows),
            _part(self.levels, rows),
            self.clips,
        )

    def _guidance(self, rows: slice) -> Guidance | None:
        """The guidance of a slice of the rows."""
        before, until = int(self.guided[: rows.start].sum()), int(self.guided[: rows.stop].sum())
        if self.guidance is None or before == until:
            return None
        own, (index, scale, negative) = slice(before, until), self.guidance
        return Guidance(index[own] - rows.start, scale[own], _part_of(negative, own))


@dataclass(frozen=True, slots=True)
class Batch:
    """One tick's rows, on the model's device: ``x`` (rows, *latent) and ``inputs`` (rows, ...) each.

    ``ending``, on the host, marks the rows at the last step of their plan; ``step`` is None for one-shot models.
    ``adapters`` has a LoRA or None for each row; it is empty when no row has one.
    """

    x: Tensor
    inputs: Inputs
    ending: Flags
    step: Step | None
    adapters: Sequence[Adapter | None] = ()

    def __len__(self) -> int:
        return len(self.x)

    @property
    def forward_rows(self) -> int:
        """Rows of the forward pass: a guided row counts twice."""
        return len(self) + (0 if self.step is None else int(self.step.guided.sum()))

    def part(self, rows: slice) -> "Batch":
        """A slice of the rows."""
        step = None if self.step is None else self.step.part(rows)
        return Batch(self.x[rows], _part_of(self.inputs, rows), self.ending[rows], step, self.adapters[rows])


class StepPreview(NamedTuple):
    """A preview of row ``row`` of the batch: its predicted clean latent and its noisy latent, decoded."""

    row: int
    x_start: Picture | None
    x_t: Picture | None


@dataclass(frozen=True, slots=True)
class StepResult:
    """The rows after a step, with their results on the host.

    ``x_start`` is the network's prediction, ``x`` itself for one-shot models. ``results`` are of the ending rows, in
    order; ``usable`` marks the finite ones, because a NaN converted to uint8 looks like a picture. ``previews`` are
    finite.
    """

    x: Tensor
    x_start: Tensor
    results: Sequence[Result] | npt.NDArray[Any]
    usable: Flags
    previews: Sequence[StepPreview] = ()


@torch.inference_mode()
def run(model: Model, batch: Batch) -> StepResult:
    """Denoise, guide, clamp, inpaint and update every row, then decode the rows that end."""
    step = batch.step
    if step is None:
        decode = adapted(model.decode, batch.adapters)
        return StepResult(batch.x, batch.x, *_decode(model, decode, batch.x, batch.inputs, batch.ending))
    x, x_start = _step(model, batch, step)
    if step.extras is None:
        return StepResult(x, x_start, *_decode(model, model.decode, x, batch.inputs, batch.ending))
    return _with_extras(model, x, x_start, batch, step.extras)


def run_isolating(model: Model, batch: Batch, failed: Failed) -> list[tuple[slice, StepResult | Exception]]:
    """``run``, in halves after a failure: a result for every row, or the exception that it raises alone.

    Returns consecutive slices of the batch; a failed slice has one row. One faulty row among n costs at most 2 log2(n)
    further forward passes. ``failed`` is called for every one that raises.
    """
    return _isolate(model, batch, slice(0, len(batch)), failed)


def _isolate(model: Model, batch: Batch, rows: slice, failed: Failed) -> list[tuple[slice, StepResult | Exception]]:
    size = rows.stop - rows.start
    part = batch if size == len(batch) else batch.part(rows)
    try:
        return [(rows, run(model, part))]
    except Exception as failure:  # a model may raise anything; the thread must go on
        # The traceback would keep the tensors alive while the halves need their memory.
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


def adapted(part: Callable[..., Tensor], adapters: Sequence[Adapter | None]) -> Callable[..., Tensor]:
    """``part`` of a model with a LoRA or None for each row of its call."""
    return partial(part, adapters=adapters) if adapters else part


def _step(model: Model, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
    """The rows' latents after the step, and the clean latents predicted, (rows, *latent) each."""
    assert model.denoise is not None
    denoise = model.denoise
    if batch.adapters:
        again = [batch.adapters[row] for row in np.flatnonzero(step.guided).tolist()]
        denoise = adapted(denoise, [*batch.adapters, *again])
    t, coefficients = step.coefficients[:, 0], step.coefficients[:, 1:]
    if step.levels is not None:
        return _step_of_levels(model, batch, step, step.levels, denoise)
    x0_range = model.manifest.x0_range
    x_start = predict_x_start(denoise, batch.x, t, batch.inputs, step.guidance, step.inpaint, x0_range)
    return update(batch.x, x_start, step.x_start_prev, coefficients, step.noise), x_start


def _step_of_levels(model: Model, batch: Batch, step: Step, levels: Tensor, denoise: Denoise) -> tuple[Tensor, Tensor]:
    """As ``_step``, for a network of diffusers, whose plans have ``levels``."""
    assert model.prediction is not None
    x, (alpha, sigma, bound, shift) = batch.x, levels[:, 0].unbind(1)
    prediction = predict(denoise, x, step.coefficients[:, 0], batch.inputs, step.guidance)
    x_start = x_start_from(prediction, x, alpha, sigma, model.prediction)
    if step.clips:
        x, x_start = clip_x_start(x, x_start, bound, shift)
    x = update(x, x_start, step.x_start_prev, step.coefficients[:, 1:], step.noise)
    if step.inpaint is not None and step.inpaint.noise is not None:
        x = keep_known(x, step.inpaint, step.inpaint.noise, *levels[:, 1, :2].unbind(1))
    return x, x_start


def _decode(
    model: Model, decode: Callable[..., Tensor], x: Tensor, inputs: Inputs, shown: Flags
) -> tuple[npt.NDArray[np.uint8], Flags]:
    """Results of the ``shown`` rows on the host, and which are finite."""
    count = np.count_nonzero(shown)
    if not count:
        return np.empty((0, *model.result_shape), np.uint8), np.empty(0, np.bool_)
    if count < len(shown):
        index = _index(shown, x.device)
        x, inputs = x[index], {name: tensor[index] for name, tensor in inputs.items()}
    results, usable = to_host(*model.finish(decode(x, inputs)))
    return results.numpy(), usable.numpy()


def _part(tensor: Tensor | None, rows: slice) -> Any:  # noqa: ANN401
    return None if tensor is None else tensor[rows]


def _part_of(inputs: Inputs, rows: slice) -> Inputs:
    return {name: tensor[rows] for name, tensor in inputs.items()}


def _with_extras(model: Model, x: Tensor, x_start: Tensor, batch: Batch, extras: Extras) -> StepResult:
    """The result of a step with previews or latents: all pictures are decoded in one batch and copied once."""
    shown = [batch.ending & ~extras.as_latent, extras.previews & X_START != 0, extras.previews & X_T != 0]
    flags, rows = np.concatenate(shown), len(batch)
    decoded = _shown(model, torch.cat([x, x_start, batch.x]), batch, flags) if flags.any() else {}
    previews = [
        StepPreview(row, decoded.get(rows + row), decoded.get(2 * rows + row))
        for row in np.flatnonzero(extras.previews).tolist()
        if rows + row in decoded or 2 * rows + row in decoded
    ]
    results: dict[int, Result] = {**decoded, **_latents(x, batch.ending & extras.as_latent)}
    ending = np.flatnonzero(batch.ending).tolist()
    usable = np.array([row in results for row in ending], dtype=np.bool_)
    return StepResult(x, x_start, [results.get(row, NOTHING) for row in ending], usable, previews)


def _shown(model: Model, latents: Tensor, batch: Batch, flags: Flags) -> dict[int, Picture]:
    """The decoded ``latents`` (3 rows, *latent) of the batch that ``flags`` mark, by place.

    A model that decodes apart ends all rows as latents, so only previews are left, and they are approximations.
    """
    if model.preview is not None:
        return _by_row(flags, *_decode(model, model.preview, latents, {}, flags))
    inputs = {name: torch.cat([tensor] * 3) for name, tensor in batch.inputs.items()}
    return _by_row(flags, *_decode(model, model.decode, latents, inputs, flags))


def _latents(x: Tensor, wanted: Flags) -> dict[int, Latent]:
    if not wanted.any():
        return {}
    chosen = x[_index(wanted, x.device)]
    latents, usable = to_host(chosen, chosen.flatten(1).isfinite().all(dim=1))
    return _by_row(wanted, latents.numpy(), usable.numpy())


def _by_row(shown: Flags, values: npt.NDArray[np.generic], usable: Flags) -> dict[int, npt.NDArray[Any]]:
    """The finite values of the ``shown`` rows, by row."""
    rows = np.flatnonzero(shown).tolist()
    return {row: value for row, value, good in zip(rows, values, usable, strict=True) if good}


def _index(shown: Flags, device: torch.device) -> Tensor:
    return to_device(torch.from_numpy(np.flatnonzero(shown)), device)
