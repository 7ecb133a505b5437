"""The rows of one model that are under way: preallocated tensors, a place a picture.

Latents live on the model's device. What a tick needs to choose rows and look up their coefficients lives on the host,
in arrays: choosing is arithmetic on them, without a loop over rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.model import Model
from service.engine.rows import RowSpec
from service.engine.submission import Submission
from service.engine.tick import PREVIEW_BITS, Batch, Extras, Step
from service.engine.transfer import to_device_together
from service.sampling.noise import RowNoise, draw_each
from service.sampling.step import Inpaint

Slots = npt.NDArray[np.int64]


@dataclass(slots=True)
class LiveRow:
    """One row of a job: ``index`` is its place in the job's answer."""

    job: "Submission[Any]"
    index: int
    spec: RowSpec


class RowTable:
    """``rows`` places. A place is free, ready (waiting for a tick) or running (in one)."""

    def __init__(self, model: Model, rows: int) -> None:
        self._denoises = model.denoise is not None
        self._shape, self._device = model.row_shape, model.device
        # Rows that decode at once begin and end in one tick, and leave nothing here.
        places = (rows if self._denoises else 0, *self._shape)
        self._x = torch.zeros(places, device=self._device)
        self._x_start_prev = torch.zeros(places, device=self._device)
        # Of the places whose row has a mask; what stands in the others is never used.
        self._inpaint = Inpaint(torch.zeros(places, device=self._device), torch.zeros(places, device=self._device))
        self._inpaints = np.zeros(rows, dtype=np.bool_)
        self._null_label = model.manifest.null_label
        self._negative_label = np.zeros(rows, dtype=np.int64)
        self._film_every = np.zeros(rows, dtype=np.int64)
        self._preview_bits = np.zeros(rows, dtype=np.int64)
        self._as_latent = np.zeros(rows, dtype=np.bool_)
        self._label = np.zeros(rows, dtype=np.int64)
        self._guidance_scale = np.ones(rows, dtype=np.float32)
        # Step k of place s is coefficients[s, k] = (t, a, b, c, d).
        self._coefficients = np.zeros((rows, max(1, model.max_steps), 5), dtype=np.float32)
        self._length = np.zeros(rows, dtype=np.int64)
        self._step = np.zeros(rows, dtype=np.int64)
        self._weight = np.ones(rows, dtype=np.int64)
        self._last_served = np.zeros(rows, dtype=np.int64)
        self._ready = np.zeros(rows, dtype=np.bool_)
        #: Rows that a tick could serve.
        self.ready = 0
        self._live: list[LiveRow | None] = [None] * rows
        # Made once: a generator's state is 2.5 kB, dearer to come by than to seed anew.
        self._noise = [RowNoise(0) for _ in range(rows)]
        self._free = list(range(rows - 1, -1, -1))
        self._claims = 0

    @property
    def free(self) -> int:
        """Places that a new row can take."""
        return len(self._free)

    @property
    def live(self) -> int:
        """Places that hold a row."""
        return len(self._live) - len(self._free)

    @property
    def ready_forward_rows(self) -> int:
        """Rows of one network call with all of them: a guided one, which only a model that denoises has, is two."""
        return int(self._weight[self._ready].sum()) if self._denoises else self.ready

    def admit(self, rows: Sequence[LiveRow]) -> None:
        """Give each row a free place and its plan; its first tick gives it what it starts from.

        Host arithmetic alone: nothing here can fail for want of memory, or of a device. Raises what a row raises whose
        numbers are not such; then none has a place.
        """
        if not rows:
            return
        slots = np.array([self._free.pop() for _ in rows])
        try:
            self._note(slots, rows)
        except Exception:
            self.drop(slots)
            raise
        self._set_ready(slots)

    def _note(self, slots: Slots, rows: Sequence[LiveRow]) -> None:
        self._last_served[slots] = self._claims  # behind all that wait: the place's last row says nothing of this one
        self._label[slots] = [row.spec.label for row in rows]
        for slot, row in zip(slots.tolist(), rows, strict=True):
            self._live[slot] = row
        if self._denoises:
            self._note_plans(slots, [row.spec for row in rows])

    def claim(self, most: int) -> Slots:
        """Up to ``most`` rows' worth of ready places, the least recently served first; at least one if any is ready."""
        chosen = np.flatnonzero(self._ready)
        if self.ready_forward_rows > most:
            turn = chosen[np.argsort(self._last_served[chosen], kind="stable")[:most]]
            fitting = np.cumsum(self._weight[turn]) <= most
            fitting[:1] = True  # one guided row is two, and must pass even where one is the most
            chosen = turn[fitting]
        self._set_running(chosen)
        self._claims += 1
        self._last_served[chosen] = self._claims
        return chosen

    def gather(self, slots: Slots) -> tuple[Tensor, Batch]:
        """What a tick computes of these rows, brought to the device by one copy; and their places, for ``store``.

        Readies the noise and the masks of those that begin.
        """
        columns = self._columns(slots)
        sent = dict(zip(columns, to_device_together([*columns.values()], self._device), strict=True))
        places, label, ending = sent["places"], sent["label"], self.last_step(slots)
        if not self._denoises:
            return places, Batch(sent["starts"], label, ending, None)
        x, x_start_prev = self._latents(places, sent.get("begins"), sent.get("starts"))
        step = Step(
            x_start_prev,
            sent["coefficients"],
            self._weight[slots] == 2,
            self._guidance_scale[slots],
            self._negative_label[slots],
            sent.get("noise"),
            self._inpaint_of(places, sent.get("bare")),
            self._extras(slots),
        )
        return places, Batch(x, label, ending, step)

    def _columns(self, slots: Slots) -> dict[str, Tensor]:
        """What a tick of these rows needs of the host, each (rows, ...): ``begins`` and ``bare`` count within them."""
        columns = {"places": torch.from_numpy(slots), "label": torch.from_numpy(self._label[slots])}
        if not self._denoises:  # all begin
            columns["starts"] = self._start(slots)
            return columns
        begins = self.first_step(slots)
        if begins.any():
            columns["begins"] = torch.from_numpy(np.flatnonzero(begins))
            columns["starts"] = self._start(slots[begins])
        columns["coefficients"] = self.coefficients(slots)
        noise = self._draw_noise(slots, columns["coefficients"])
        if noise is not None:
            columns["noise"] = noise
        masked = self._inpaints[slots]
        if masked.any():
            columns["bare"] = torch.from_numpy(np.flatnonzero(~masked))
        return columns

    def _latents(self, places: Tensor, begins: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the rows are, and what was last predicted for them, (places, *latent) each.

        Rows that begin are their ``starts``, and nothing was predicted for them: what their place's last row left would
        pass into their first step, for 0 * NaN is NaN.
        """
        if begins is None or starts is None:
            return self._x[places], self._x_start_prev[places]
        if len(begins) == len(places):
            return starts, torch.zeros_like(starts)
        x = self._x[places].index_copy_(0, begins, starts)
        return x, self._x_start_prev[places].index_fill_(0, begins, 0.0)

    def store(self, places: Tensor, x: Tensor, x_start: Tensor) -> None:
        """Note what a step made of rows of a model that denoises, and what it predicted: (places, *latent) each.

        ``places``, of ``gather``, are on the device.
        """
        self._x[places] = x
        self._x_start_prev[places] = x_start

    def release(self, slots: Slots) -> None:
        """End a tick for rows that are to be served again, one step further down their plans."""
        if len(slots):
            self._step[slots] += 1
            self._set_ready(slots)

    def drop(self, slots: Slots) -> None:
        """Free places that are not ready."""
        for slot in slots.tolist():
            self._live[slot] = None
            self._free.append(slot)

    def rows(self, slots: Slots) -> list[LiveRow]:
        """The pictures in these places."""
        return [row for slot in slots.tolist() if (row := self._live[slot]) is not None]

    def under_way(self) -> list[tuple["LiveRow", int]]:
        """The rows here, each with how many rows of network calls it still takes."""
        return [
            (row, row.spec.calls - step * row.spec.weight)
            for row, step in zip(self._live, self._step.tolist(), strict=True)
            if row is not None
        ]

    def drop_cancelled(self) -> bool:
        """Free the ready places whose sender has gone; true when a running one has yet to come back."""
        gone = [slot for slot, row in enumerate(self._live) if row is not None and row.job.cancelled]
        slots = np.array(gone, dtype=np.int64)
        ready = self._ready[slots]
        self._set_running(slots[ready])
        self.drop(slots[ready])
        return not ready.all()

    def _inpaint_of(self, places: Tensor, bare: Tensor | None) -> Inpaint | None:
        """The masks and what is known, (places, *latent) each; all is made anew in rows that are ``bare`` of a mask."""
        if bare is None:
            return None
        mask, known = (tensor[places] for tensor in self._inpaint)
        return Inpaint(mask.index_fill_(0, bare, 1.0), known.index_fill_(0, bare, 0.0))

    def _extras(self, slots: Slots) -> Extras | None:
        """What these rows want shown at the step under way, and which end as latents; None when none wants either."""
        as_latent, every = self._as_latent[slots], self._film_every[slots]
        if not (as_latent.any() or every.any()):
            return None
        due = (every > 0) & (self._step[slots] % np.maximum(every, 1) == 0)
        return Extras(as_latent, np.where(due, self._preview_bits[slots], 0))

    def position(self, slots: Slots) -> tuple[list[int], list[int]]:
        """How many steps these rows have done, and how many their plans have."""
        return self._step[slots].tolist(), self._length[slots].tolist()

    def coefficients(self, slots: Slots) -> Tensor:
        """This step's (t, a, b, c, d) of each place: (slots, 5) float32 on the host."""
        return torch.from_numpy(self._coefficients[slots, self._step[slots]])

    def first_step(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Which of these places begin their plan with the step under way."""
        begins: npt.NDArray[np.bool_] = self._step[slots] == 0
        return begins

    def last_step(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Which of these places reach the end of their plan with the step under way."""
        ends: npt.NDArray[np.bool_] = self._step[slots] + 1 >= self._length[slots]
        return ends

    def _draw_noise(self, slots: Slots, coefficients: Tensor) -> Tensor | None:
        """Noise (slots, *latent) on the host, drawn for the rows whose step adds some; None when none does."""
        adding = coefficients[:, 4] != 0
        if not adding.any():
            return None
        drawn = torch.zeros(len(slots), *self._shape)
        for position in adding.nonzero().flatten().tolist():
            self._noise[slots[position]].fill(drawn[position])
        return drawn

    def _note_plans(self, slots: Slots, specs: Sequence[RowSpec]) -> None:
        """Note the plans of rows of a model that denoises, and what they want beside their picture."""
        self._step[slots] = 0
        self._guidance_scale[slots] = [spec.guidance_scale for spec in specs]
        self._weight[slots] = [spec.weight for spec in specs]
        self._length[slots] = [spec.plan.steps for spec in specs]
        labels = [spec.negative_label for spec in specs]
        self._negative_label[slots] = [self._null_label if label is None else label for label in labels]
        films = [spec.film for spec in specs]
        self._film_every[slots] = [0 if film is None else film.every for film in films]
        self._preview_bits[slots] = [0 if film is None else PREVIEW_BITS[film.kind] for film in films]
        self._as_latent[slots] = [spec.as_latent for spec in specs]
        self._inpaints[slots] = [spec.inpaint is not None for spec in specs]
        for slot, spec in zip(slots.tolist(), specs, strict=True):
            self._coefficients[slot, : spec.plan.steps] = spec.plan.table

    def _start(self, slots: Slots) -> Tensor:
        """What the rows begin with, noise or what was given: (slots, *latent) on the host."""
        specs = [row.spec for row in self.rows(slots)]
        starts = torch.empty(len(specs), *self._shape)
        draw_each([spec.seed for spec in specs], starts)
        for place, (slot, spec) in enumerate(zip(slots.tolist(), specs, strict=True)):
            if spec.plan.adds_noise:
                self._noise[slot].restart(spec.seed)
                self._noise[slot].fill(starts[place])
            if spec.latent is not None:
                starts[place] = spec.latent
            if spec.inpaint is not None:
                for kept, given in zip(self._inpaint, spec.inpaint, strict=True):
                    kept[slot].copy_(given)
        return starts

    def _set_ready(self, slots: Slots) -> None:
        self._ready[slots] = True
        self.ready += len(slots)

    def _set_running(self, slots: Slots) -> None:
        self._ready[slots] = False
        self.ready -= len(slots)
