"""The messages between an API process and an engine process, in MessagePack.

The first message of a connection names the ``VERSION`` of the messages; a frame that does not decode closes the
connection. Rows and results carry their numbers as raw bytes.
"""

import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.results import Preview, Result
from service.engine.rows import Film, FilmKind, RowSpec
from service.engine.table import LiveRow
from service.sampling.solvers import EMPTY_PLAN, Plan
from service.sampling.step import Inpaint

#: Raise it with every change of a message.
VERSION = 1


class Message(msgspec.Struct, array_like=True, gc=False):
    """A message or a part of one, encoded as an array of its fields."""


class Array(Message):
    """A picture (uint8) or numbers (float32), with its bytes in C order."""

    shape: tuple[int, ...]
    picture: bool
    data: bytes


class Row(Message):
    """Row ``index`` of a job; ``plan`` is its place among the plans of the message. The rest is as in ``RowSpec``.

    ``alone``: it was in the forward pass of an engine that died, so it must not share one.
    """

    index: int
    seed: int
    label: int
    guidance_scale: float
    plan: int
    latent: Array | None = None
    negative_label: int | None = None
    inpaint: tuple[Array, Array] | None = None
    film: tuple[int, FilmKind] | None = None
    as_latent: bool = False
    alone: bool = False


class Hello(Message, tag=2):
    """The first message of a connection."""

    version: int


class Submit(Message, tag=0):
    """Rows of the job ``key`` for a lane. ``expires_at``: seconds of the monotonic clock, which processes share.

    ``plans`` are tables (steps, 5) float32; an empty one is the plan of one-shot models.
    """

    key: int
    lane: int
    expires_at: float
    plans: list[bytes]
    rows: list[Row]


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
    return Submit(
        key, lane, expires_at, [_table_of(plan) for plan in plans], [_row_of(row, plans[row.spec.plan]) for row in rows]
    )


def specs_of(message: Submit) -> list[RowSpec]:
    """The specifications of the rows in a message."""
    plans = [_plan_of(table) for table in message.plans]
    return [_spec_of(row, plans[row.plan]) for row in message.rows]


def _row_of(row: LiveRow, plan: int) -> Row:
    spec, alone = row.spec, row.deaths > 0
    if spec[4:] == _PLAIN and not alone:
        return Row(row.index, spec.seed, spec.label, spec.guidance_scale, plan)
    return Row(
        row.index,
        spec.seed,
        spec.label,
        spec.guidance_scale,
        plan,
        None if spec.latent is None else _array_of_tensor(spec.latent),
        spec.negative_label,
        None if spec.inpaint is None else (_array_of_tensor(spec.inpaint.mask), _array_of_tensor(spec.inpaint.known)),
        spec.film,
        spec.as_latent,
        alone,
    )


def _spec_of(row: Row, plan: Plan) -> RowSpec:
    return RowSpec(
        row.seed,
        row.label,
        row.guidance_scale,
        plan,
        None if row.latent is None else _tensor_of(row.latent),
        row.negative_label,
        None if row.inpaint is None else Inpaint(*map(_tensor_of, row.inpaint)),
        None if row.film is None else Film(*row.film),
        row.as_latent,
    )


#: The fields of most rows after ``plan``.
_PLAIN = RowSpec(0, 0, 1.0, EMPTY_PLAN)[4:]

_tables: weakref.WeakKeyDictionary[Plan, bytes] = weakref.WeakKeyDictionary()


def _table_of(plan: Plan) -> bytes:
    if not plan.steps:
        return b""
    table = _tables.get(plan)
    if table is None:
        table = _tables[plan] = plan.table.float().numpy().tobytes()
    return table


@lru_cache(maxsize=256)
def _plan_of(table: bytes) -> Plan:
    return Plan(_tensor_of(Array((len(table) // 20, 5), False, table))) if table else EMPTY_PLAN


def _array_of_tensor(tensor: Tensor) -> Array:
    return array_of(tensor.float().contiguous().numpy())


def _tensor_of(array: Array) -> Tensor:
    return torch.from_numpy(numbers_of(array).copy())
