"""The table of a model's running rows: preallocated tensors with one slot per picture.

Latents are on the model's device. What a tick needs to choose rows and to look up their coefficients is in arrays on
the host, so that choosing is array arithmetic without a loop over rows.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.inputs import InputTable, bytes_per_row
from service.engine.model import Model
from service.engine.rows import RowSpec
from service.engine.submission import Job
from service.engine.tick import PREVIEW_BITS, Batch, Extras, Step
from service.engine.transfer import to_device_together
from service.engine.turns import in_turn
from service.sampling.noise import RowNoise, draw_each
from service.sampling.step import Guidance, Inpaint

Slots = npt.NDArray[np.int64]
#: Most bytes of a table on the device.
TABLE_BYTES = 1 << 30
_NOW_AND_NEXT = np.arange(2)


@dataclass(slots=True)
class LiveRow:
    """One row of a job; ``index`` is its position in the job's results.

    ``deaths`` counts the engine processes that died while they computed it.
    """

    job: Job
    index: int
    spec: RowSpec
    deaths: int = 0

    @property
    def key(self) -> int:
        """Identifies the row among all rows of an engine."""
        return self.job.key | self.index


def most_rows(model: Model, wanted: int) -> int:
    """The slots of a model's table: ``wanted``, or fewer where their tensors would need more than ``TABLE_BYTES``."""
    if model.denoise is None:
        return wanted
    latents = 4 * math.prod(model.row_shape) * (4 if model.prediction is None else 5)
    return max(1, min(wanted, TABLE_BYTES // (latents + bytes_per_row(model.inputs))))


class RowTable:
    """A table of ``rows`` slots. A slot is free, ready (waiting for a tick) or running (in a tick)."""

    def __init__(self, model: Model, rows: int) -> None:
        self._denoises = model.denoise is not None
        self._shape, self._device = model.row_shape, model.device
        self._decodes_apart = model.decodes_apart
        # Rows of a one-shot model need no latents here: they begin and end in one tick.
        shape = (rows if self._denoises else 0, *self._shape)
        self._x = torch.zeros(shape, device=self._device)
        self._x_start_prev = torch.zeros(shape, device=self._device)
        # Only the slots whose row has a mask are read. The noise is that of ``keep_known``.
        held = [torch.zeros(shape, device=self._device) for _ in range(2 if model.prediction is None else 3)]
        self._inpaint = Inpaint(*held)
        self._inpaints = np.zeros(rows, dtype=np.bool_)
        self._inputs = InputTable(
            model.inputs, rows, self._device, model.manifest.null_label, adapts=bool(model.adapters)
        )
        self._film_every = np.zeros(rows, dtype=np.int64)
        self._preview_bits = np.zeros(rows, dtype=np.int64)
        self._as_latent = np.zeros(rows, dtype=np.bool_)
        self._guidance_scale = np.ones(rows, dtype=np.float32)
        # Step k of slot s is coefficients[s, k] = (t, a, b, c, d).
        steps = max(1, model.max_steps)
        self._coefficients = np.zeros((rows, steps, 5), dtype=np.float32)
        #: ``Plan.levels`` of each slot, (rows, steps + 1, 4), and whether they bound the clean latent.
        self._levels = None if model.prediction is None else np.zeros((rows, steps + 1, 4), dtype=np.float32)
        self._clips = np.zeros(rows, dtype=np.bool_)
        self._length = np.zeros(rows, dtype=np.int64)
        self._step = np.zeros(rows, dtype=np.int64)
        self._weight = np.ones(rows, dtype=np.int64)
        self._last_served = np.zeros(rows, dtype=np.int64)
        self._client = np.zeros(rows, dtype=np.int64)
        self._ready = np.zeros(rows, dtype=np.bool_)
        self._alone = np.zeros(rows, dtype=np.bool_)
        #: Number of ready rows.
        self.ready = 0
        self._live: list[LiveRow | None] = [None] * rows
        # Allocated once: a generator's state is 2.5 kB, and reseeding is cheaper than allocating.
        self._noise = [RowNoise(0) for _ in range(rows)]
        self._free = list(range(rows - 1, -1, -1))
        self._claims = 0

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    @property
    def live(self) -> int:
        """Number of slots with a row."""
        return len(self._live) - len(self._free)

    @property
    def ready_forward_rows(self) -> int:
        """Rows of a forward pass over all ready rows: a guided row, which only denoising models have, counts twice."""
        return int(self._weight[self._ready].sum()) if self._denoises else self.ready

    def admit(self, rows: Sequence[LiveRow]) -> None:
        """Give each row a free slot and its plan; its first tick computes its starting latent.

        Only host arithmetic, so it cannot run out of device memory. Raises whatever a row with invalid numbers raises;
        then no row has a slot.
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
        # Queue behind waiting rows; the slot's old timestamp belongs to another row.
        self._last_served[slots] = self._claims
        self._inputs.note(slots, [row.spec for row in rows])
        self._alone[slots] = [row.deaths > 0 for row in rows]
        self._client[slots] = [row.job.client for row in rows]
        for slot, row in zip(slots.tolist(), rows, strict=True):
            self._live[slot] = row
        if self._denoises:
            self._note_plans(slots, [row.spec for row in rows])

    def clients(self) -> Counter[int]:
        """The number of slots of each client that has any."""
        return Counter(row.job.client for row in self._live if row is not None)

    def claim(self, most: int) -> Slots:
        """Ready slots of up to ``most`` forward-pass rows, at least one if any.

        Clients have equal numbers of rows in a tick, as far as they have any; of each the least recently served come
        first.
        """
        chosen = np.flatnonzero(self._ready)
        if np.count_nonzero(self._alone):
            chosen = self._without_company(chosen)
        if self.ready_forward_rows > most:
            by_age = chosen[np.argsort(self._last_served[chosen], kind="stable")]
            turn = in_turn(by_age, self._client, self._last_served)[:most]
            fitting = np.cumsum(self._weight[turn]) <= most
            fitting[:1] = True  # a guided row counts twice and must be served even if ``most`` is 1
            chosen = turn[fitting]
        self._set_running(chosen)
        self._claims += 1
        self._last_served[chosen] = self._claims
        return chosen

    def _without_company(self, ready: Slots) -> Slots:
        """The rows of ``ready`` for one tick: the least recently served alone if it must be, else all that need not.

        A row that was in a forward pass when an engine died may be what killed it. It begins alone, so that it does not
        take others along again. Only its first step, or a full table would take minutes to recover.
        """
        first = ready[np.argmin(self._last_served[ready])] if len(ready) else None
        return ready[ready == first] if first is not None and self._alone[first] else ready[~self._alone[ready]]

    def gather(self, slots: Slots) -> tuple[Tensor, Batch]:
        """The slots as an index on the device, for ``store``, and the batch of these rows, sent in one copy.

        Draws the starting noise and copies the masks of rows that begin.
        """
        guided = self._weight[slots] == 2
        columns = self._columns(slots, guided)
        sent = dict(zip(columns, to_device_together([*columns.values()], self._device), strict=True))
        index, ending, conditioned = sent["index"], self.last_step(slots), self._inputs
        inputs = conditioned.gather(index, sent)
        adapters = conditioned.adapters(slots) if conditioned.conditioned else ()
        if not self._denoises:
            return index, Batch(sent["starts"], inputs, ending, None, adapters)
        x, x_start_prev = self._latents(index, sent.get("begins"), sent.get("starts"))
        step = Step(
            x_start_prev,
            sent["coefficients"],
            guided,
            self._guidance(index, sent),
            sent.get("noise"),
            self._inpaint_of(index, sent.get("unmasked")),
            self._extras(slots),
            sent.get("levels"),
            self._levels is not None and bool(self._clips[slots].any()),
        )
        return index, Batch(x, inputs, ending, step, adapters)

    def _columns(self, slots: Slots, guided: npt.NDArray[np.bool_]) -> dict[str, Tensor]:
        """The host's part of a batch, (rows, ...) each; ``begins`` and ``unmasked`` are indices into the rows."""
        columns = self._inputs.columns(slots, self._step)
        columns["index"] = torch.from_numpy(slots)
        if not self._denoises:  # all rows begin in this tick
            columns["starts"] = self._start(slots)
            return columns
        if np.count_nonzero(guided):
            rows = np.flatnonzero(guided)
            own = slots[rows]
            columns["guided"] = torch.from_numpy(rows)
            columns["scale"] = torch.from_numpy(self._guidance_scale[own])
            self._inputs.add_negative_columns(columns, own)
        begins = self.first_step(slots)
        if np.count_nonzero(begins):
            columns["begins"] = torch.from_numpy(np.flatnonzero(begins))
            columns["starts"] = self._start(slots[begins])
        coefficients = self._coefficients[slots, self._step[slots]]
        columns["coefficients"] = torch.from_numpy(coefficients)
        noise = self._draw_noise(slots, coefficients)
        if noise is not None:
            columns["noise"] = noise
        if self._levels is not None:
            steps = self._step[slots][:, None] + _NOW_AND_NEXT
            columns["levels"] = torch.from_numpy(self._levels[slots[:, None], steps])
        masked = self._inpaints[slots]
        if np.count_nonzero(masked):
            columns["unmasked"] = torch.from_numpy(np.flatnonzero(~masked))
        return columns

    def _latents(self, index: Tensor, begins: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """The rows' latents and their previous predictions, (rows, *latent) each.

        Rows that begin get their ``starts`` and a prediction of zeros: a NaN left in the slot by an earlier row would
        enter their first step, because 0 * NaN is NaN.
        """
        if begins is None or starts is None:
            return self._x[index], self._x_start_prev[index]
        if len(begins) == len(index):
            return starts, torch.zeros_like(starts)
        x = self._x[index].index_copy_(0, begins, starts)
        return x, self._x_start_prev[index].index_fill_(0, begins, 0.0)

    def store(self, index: Tensor, x: Tensor, x_start: Tensor) -> None:
        """Store the latents after a step and its predictions, (rows, *latent) each, at the ``index`` of ``gather``."""
        self._x[index] = x
        self._x_start_prev[index] = x_start

    def release(self, slots: Slots) -> None:
        """Advance rows by one step and make them ready again."""
        if len(slots):
            self._step[slots] += 1
            self._alone[slots] = False
            self._set_ready(slots)

    def drop(self, slots: Slots) -> None:
        """Free slots that are not ready."""
        self._alone[slots] = False
        for slot in slots.tolist():
            self._live[slot] = None
            self._free.append(slot)

    def rows(self, slots: Slots) -> list[LiveRow]:
        """The rows in these slots."""
        return [row for slot in slots.tolist() if (row := self._live[slot]) is not None]

    def running_rows(self) -> list[tuple["LiveRow", int]]:
        """The rows in the table, each with the forward-pass rows that it still needs."""
        return [
            (row, row.spec.calls - step * row.spec.weight)
            for row, step in zip(self._live, self._step.tolist(), strict=True)
            if row is not None
        ]

    def drop_cancelled(self) -> bool:
        """Free the ready slots of cancelled jobs; True when such a row is still in a tick."""
        cancelled = [slot for slot, row in enumerate(self._live) if row is not None and row.job.cancelled]
        slots = np.array(cancelled, dtype=np.int64)
        ready = self._ready[slots]
        self._set_running(slots[ready])
        self.drop(slots[ready])
        return not ready.all()

    def _inpaint_of(self, index: Tensor, unmasked: Tensor | None) -> Inpaint | None:
        """The rows' masks and known latents, (rows, *latent) each; the mask of ``unmasked`` rows is 1 everywhere."""
        if unmasked is None:
            return None
        mask, known, *noise = (tensor[index] for tensor in self._inpaint if tensor is not None)
        unused = [tensor.index_fill_(0, unmasked, 0.0) for tensor in (known, *noise)]
        return Inpaint(mask.index_fill_(0, unmasked, 1.0), *unused)

    def _guidance(self, index: Tensor, sent: dict[str, Tensor]) -> Guidance | None:
        """The guidance of the slots in ``index``, whose columns are ``sent``."""
        rows = sent.get("guided")
        return None if rows is None else Guidance(rows, sent["scale"], self._inputs.gather_negative(index, rows, sent))

    def _extras(self, slots: Slots) -> Extras | None:
        """The previews due at this step and the rows that end as latents; None when there are neither."""
        as_latent, every = self._as_latent[slots], self._film_every[slots]
        if not (np.count_nonzero(as_latent) or np.count_nonzero(every)):
            return None
        due = (every > 0) & (self._step[slots] % np.maximum(every, 1) == 0)
        return Extras(as_latent, np.where(due, self._preview_bits[slots], 0))

    def position(self, slots: Slots) -> tuple[list[int], list[int]]:
        """Steps done and steps in total of these rows."""
        return self._step[slots].tolist(), self._length[slots].tolist()

    def coefficients(self, slots: Slots) -> Tensor:
        """(t, a, b, c, d) of each row's current step: (rows, 5) float32 on the host."""
        return torch.from_numpy(self._coefficients[slots, self._step[slots]])

    def first_step(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Which rows are at the first step of their plan."""
        begins: npt.NDArray[np.bool_] = self._step[slots] == 0
        return begins

    def last_step(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Which rows are at the last step of their plan."""
        ends: npt.NDArray[np.bool_] = self._step[slots] + 1 >= self._length[slots]
        return ends

    def _draw_noise(self, slots: Slots, coefficients: npt.NDArray[np.float32]) -> Tensor | None:
        """Noise (rows, *latent) on the host, drawn for rows whose step adds noise; None when none does."""
        added = coefficients[:, 4]
        if not np.count_nonzero(added):
            return None
        drawn = torch.zeros(len(slots), *self._shape)
        for position in np.flatnonzero(added).tolist():
            self._noise[slots[position]].fill(drawn[position])
        return drawn

    def _note_plans(self, slots: Slots, specs: Sequence[RowSpec]) -> None:
        """Copy the plans, guidance and outputs of a denoising model's rows."""
        self._step[slots] = 0
        self._guidance_scale[slots] = [spec.guidance_scale for spec in specs]
        self._weight[slots] = [spec.weight for spec in specs]
        self._length[slots] = [spec.plan.steps for spec in specs]
        self._inputs.note_negative(slots, specs)
        films = [spec.film for spec in specs]
        self._film_every[slots] = [0 if film is None else film.every for film in films]
        self._preview_bits[slots] = [0 if film is None else PREVIEW_BITS[film.kind] for film in films]
        self._as_latent[slots] = [spec.as_latent or self._decodes_apart for spec in specs]
        self._inpaints[slots] = [spec.inpaint is not None for spec in specs]
        for slot, spec in zip(slots.tolist(), specs, strict=True):
            self._coefficients[slot, : spec.plan.steps] = spec.plan.table
        if self._levels is not None:
            self._note_levels(self._levels, slots, specs)

    def _note_levels(self, levels: npt.NDArray[np.float32], slots: Slots, specs: Sequence[RowSpec]) -> None:
        """Copy the levels of plans for networks of diffusers."""
        self._clips[slots] = [spec.plan.clips for spec in specs]
        for slot, spec in zip(slots.tolist(), specs, strict=True):
            assert spec.plan.levels is not None
            levels[slot, : spec.plan.steps + 1] = spec.plan.levels

    def _start(self, slots: Slots) -> Tensor:
        """The starting latents, drawn or given, (rows, *latent) on the host."""
        specs = [row.spec for row in self.rows(slots)]
        starts = torch.empty(len(specs), *self._shape)
        if [spec for spec in specs if spec.latent is None]:
            draw_each([spec.seed for spec in specs], starts)
        scaled, conditioned = self._levels is not None, self._inputs.conditioned
        for place, (slot, spec) in enumerate(zip(slots.tolist(), specs, strict=True)):
            if spec.plan.adds_noise:
                self._noise[slot].restart(spec.seed)
                for _ in range(spec.draws):
                    self._noise[slot].fill(starts[place])
            if scaled and spec.plan.noise_scale != 1:
                starts[place] *= spec.plan.noise_scale
            if spec.latent is not None:
                starts[place] = spec.latent
            if conditioned and spec.conditions is not None:
                self._inputs.fill(slot, spec.conditions)
            if spec.inpaint is not None:
                self._keep(slot, spec, spec.inpaint)
        return starts

    def _keep(self, slot: int, spec: RowSpec, inpaint: Inpaint) -> None:
        """Copy what is known of a row's picture to its slot, and where it is used the noise: by default its seed's."""
        for kept, given in zip(self._inpaint[:2], inpaint[:2], strict=True):
            kept[slot].copy_(given)
        if self._inpaint.noise is not None:
            noise = RowNoise(spec.seed).draw(self._shape) if inpaint.noise is None else inpaint.noise
            self._inpaint.noise[slot].copy_(noise)

    def _set_ready(self, slots: Slots) -> None:
        self._ready[slots] = True
        self.ready += len(slots)

    def _set_running(self, slots: Slots) -> None:
        self._ready[slots] = False
        self.ready -= len(slots)
