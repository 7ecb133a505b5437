"""The messages between an API process and an engine process, in MessagePack.

The first message of a connection names the ``VERSION`` of the messages; a frame that does not decode closes the
connection. Rows and results carry their numbers as raw bytes.
"""

import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.results import Preview, Result
from service.engine.rows import Adapter, Conditions, Film, FilmKind, RowSpec
from service.engine.table import LiveRow
from service.sampling.solvers import EMPTY_PLAN, Plan
from service.sampling.step import Inpaint

#: Raise it with every change of a message.
VERSION = 3


class Message(msgspec.Struct, array_like=True, gc=False):
    """A message or a part of one, encoded as an array of its fields."""


class Array(Message):
    """A picture (uint8) or numbers (float32), with its bytes in C order."""

    shape: tuple[int, ...]
    picture: bool
    data: bytes


class Given(Message):
    """``Conditions`` of a row; tensors are places among those of the message."""

    inputs: dict[str, int]
    negative: dict[str, int]
    windows: dict[str, tuple[int, int]]
    adapter: tuple[str, float] | None


class Row(Message):
    """Row ``index`` of a job. The rest is as in ``RowSpec``; plans and tensors are places among those of the message.

    ``alone``: it was in the forward pass of an engine that died, so it must not share one.
    """

    index: int
    seed: int
    label: int
    guidance_scale: float
    plan: int
    latent: int | None = None
    negative_label: int | None = None
    inpaint: tuple[int, int, int | None] | None = None
    film: tuple[int, FilmKind] | None = None
    as_latent: bool = False
    conditions: Given | None = None
    draws: int = 1
    size: tuple[int, int] | None = None
    alone: bool = False


class Steps(NamedTuple):
    """A plan: its table (steps, 5) and its levels (steps + 1, 4), both float32; an empty table for one-shot models."""

    table: bytes
    levels: bytes | None = None
    noise_scale: float = 1.0


class Hello(Message, tag=2):
    """The first message of a connection."""

    version: int


class Submit(Message, tag=0):
    """Rows of the job ``key`` for a lane. ``expires_at``: seconds of the monotonic clock, which processes share.

    ``client`` stands for who sent it. Rows share ``plans`` and ``tensors``: the embedding of a prompt is sent once for
    all pictures of a request.
    """

    key: int
    lane: int
    expires_at: float
    plans: list[Steps]
    rows: list[Row]
    tensors: list[Array] = []
    client: int = 0


class Drop(Message, tag=1):
    """Compute no more rows of a job."""

    key: int


ToEngine = Submit | Drop | Hello


class Started(Message, tag=0):
    """The first tick with a row of the job began at ``at``."""

    key: int
    at: float


class Done(Message, tag=1):
    """The result of a row, and when its job started."""

    key: int
    index: int
    started_at: float
    result: Array


class Failed(Message, tag=2):
    """A row has no result; ``reason`` is for the client."""

    key: int
    index: int
    reason: str


class Previewed(Message, tag=3):
    """A preview of a row; see ``Preview``."""

    key: int
    index: int
    step: int
    steps: int
    t: float
    x_start: Array | None
    x_t: Array | None


class LaneState(Message, tag=4):
    """What a lane costs now: see ``CostModel`` and ``DrainRate``. ``waiting``: requests with waiting rows."""

    lane: int
    ratio: float
    largest: int
    ms_per_s: float
    waiting: int
    decode_ms: float = 0.0


class JobProgress(Message):
    """The remaining work of a job; see ``progress.Remaining``."""

    key: int
    rows_ahead: int
    calls: list[int]


class Progress(Message, tag=5):
    """The remaining work of all jobs that the process has in a lane."""

    lane: int
    jobs: list[JobProgress]


ToApi = Started | Done | Failed | Previewed | LaneState | Progress


class Frame(Message):
    """What an engine sends at once, ``at`` seconds of the monotonic clock."""

    at: float
    messages: list[ToApi]


encode = msgspec.msgpack.Encoder().encode
decode_for_engine = msgspec.msgpack.Decoder(list[ToEngine]).decode
decode_for_api = msgspec.msgpack.Decoder(Frame).decode


def array_of(numbers: Result) -> Array:
    """The message of a result."""
    return Array(numbers.shape, numbers.dtype == np.uint8, numbers.tobytes())


def numbers_of(array: Array) -> npt.NDArray[Any]:
    """The result in a message; it cannot be written to."""
    return np.frombuffer(array.data, np.uint8 if array.picture else np.float32).reshape(array.shape)


def previewed(key: int, preview: Preview) -> Previewed:
    """The message of a preview."""
    x_start, x_t = (None if each is None else array_of(each) for each in (preview.x_start, preview.x_t))
    return Previewed(key, preview.row, preview.step, preview.steps, preview.t, x_start, x_t)


def preview_of(message: Previewed) -> Preview:
    """The preview in a message."""
    x_start, x_t = (None if each is None else numbers_of(each) for each in (message.x_start, message.x_t))
    return Preview(message.index, message.step, message.steps, message.t, x_start, x_t)


def submit_of(key: int, lane: int, expires_at: float, rows: Sequence[LiveRow]) -> Submit:
    """The message that submits ``rows`` of one job."""
    plans: dict[Plan, int] = {}
    for row in rows:
        plans.setdefault(row.spec.plan, len(plans))
    tensors = _Tensors()
    encoded = [_row_of(row, plans[row.spec.plan], tensors) for row in rows]
    steps = [_steps_of(plan) for plan in plans]
    return Submit(key, lane, expires_at, steps, encoded, tensors.arrays, rows[0].job.client)


def specs_of(message: Submit) -> list[RowSpec]:
    """The specifications of the rows in a message."""
    plans = [_plan_of(steps) for steps in message.plans]
    tensors = [_tensor_of(array) for array in message.tensors]
    return [_spec_of(row, plans[row.plan], tensors) for row in message.rows]


class _Tensors:
    """The tensors of a message, each once."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self._places: dict[int, int] = {}

    def place(self, tensor: Tensor) -> int:
        """The place of ``tensor`` among ``arrays``. The rows of the message keep it alive, so its id is its own."""
        place = self._places.setdefault(id(tensor), len(self.arrays))
        if place == len(self.arrays):
            self.arrays.append(array_of(tensor.float().contiguous().numpy()))
        return place

    def place_if_any(self, tensor: Tensor | None) -> int | None:
        """As ``place``; None for None."""
        return None if tensor is None else self.place(tensor)


def _row_of(row: LiveRow, plan: int, tensors: _Tensors) -> Row:
    spec, alone = row.spec, row.deaths > 0
    if spec[4:] == _PLAIN and not alone:
        return Row(row.index, spec.seed, spec.label, spec.guidance_scale, plan)
    return Row(
        row.index,
        spec.seed,
        spec.label,
        spec.guidance_scale,
        plan,
        tensors.place_if_any(spec.latent),
        spec.negative_label,
        None if spec.inpaint is None else _inpaint_of(spec.inpaint, tensors),
        spec.film,
        spec.as_latent,
        None if spec.conditions is None else _given_of(spec.conditions, tensors),
        spec.draws,
        spec.size,
        alone,
    )


def _inpaint_of(inpaint: Inpaint, tensors: _Tensors) -> tuple[int, int, int | None]:
    return tensors.place(inpaint.mask), tensors.place(inpaint.known), tensors.place_if_any(inpaint.noise)


def _given_of(conditions: Conditions, tensors: _Tensors) -> Given:
    inputs, negative = ({name: tensors.place(tensor) for name, tensor in each.items()} for each in conditions[:2])
    return Given(inputs, negative, {**conditions.windows}, conditions.adapter)


def _spec_of(row: Row, plan: Plan, tensors: Sequence[Tensor]) -> RowSpec:
    return RowSpec(
        row.seed,
        row.label,
        row.guidance_scale,
        plan,
        None if row.latent is None else tensors[row.latent],
        row.negative_label,
        None if row.inpaint is None else Inpaint(*(None if at is None else tensors[at] for at in row.inpaint)),  # type: ignore[arg-type]
        None if row.film is None else Film(*row.film),
        row.as_latent,
        None if row.conditions is None else _conditions_of(row.conditions, tensors),
        row.draws,
        row.size,
    )


def _conditions_of(given: Given, tensors: Sequence[Tensor]) -> Conditions:
    inputs, negative = ({name: tensors[at] for name, at in each.items()} for each in (given.inputs, given.negative))
    return Conditions(inputs, negative, given.windows, None if given.adapter is None else Adapter(*given.adapter))


#: The fields of most rows after ``plan``.
_PLAIN = RowSpec(0, 0, 1.0, EMPTY_PLAN)[4:]

_steps: weakref.WeakKeyDictionary[Plan, Steps] = weakref.WeakKeyDictionary()


def _steps_of(plan: Plan) -> Steps:
    if not plan.steps:
        return Steps(b"")
    steps = _steps.get(plan)
    if steps is None:
        levels = None if plan.levels is None else plan.levels.float().numpy().tobytes()
        steps = _steps[plan] = Steps(plan.table.float().numpy().tobytes(), levels, plan.noise_scale)
    return steps


@lru_cache(maxsize=256)
def _plan_of(steps: Steps) -> Plan:
    if not steps.table:
        return EMPTY_PLAN
    table = _tensor_of(Array((len(steps.table) // 20, 5), False, steps.table))
    levels = None if steps.levels is None else _tensor_of(Array((len(steps.levels) // 16, 4), False, steps.levels))
    return Plan(table, noise_scale=steps.noise_scale, levels=levels)


def _tensor_of(array: Array) -> Tensor:
    return torch.from_numpy(numbers_of(array).copy())
