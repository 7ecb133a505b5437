"""Rows through their messages: nothing is lost, and what rows share is sent once."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.engine.rows import Adapter, Conditions, Film, RowSpec
from service.engine.submission import Submission
from service.engine.table import LiveRow
from service.link.messages import Submit, array_of, decode_for_engine, encode, numbers_of, specs_of, submit_of
from service.sampling.diffusers_plan import make_diffusers_plan
from service.sampling.diffusers_schedule import DiffusionSchedule
from service.sampling.solvers import EMPTY_PLAN, Plan
from service.sampling.step import Inpaint

SHAPE = (2, 3, 4)
WHOLE = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(["context", "pooled", "hint", "hint_scale", "Größe", ""])
FLOATS = st.floats(allow_nan=False, width=32)
SCHEDULE = DiffusionSchedule(solver="euler", timestep_spacing="linspace")
PLANS = [EMPTY_PLAN, Plan(torch.rand(3, 5).double()), make_diffusers_plan(SCHEDULE, 4)]


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...] | None = None) -> Tensor:
    sides = shape if shape is not None else tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    seed = draw(st.integers(0, 99))
    return torch.randn(sides, generator=torch.Generator().manual_seed(seed))


INPUTS = st.dictionaries(NAMES, tensors(), max_size=3)
CONDITIONS = st.builds(
    Conditions,
    INPUTS,
    INPUTS,
    st.dictionaries(NAMES, st.tuples(st.integers(0, 99), st.integers(0, 2**63 - 1)), max_size=2),
    st.none() | st.builds(Adapter, NAMES, FLOATS),
)
SPECS = st.builds(
    RowSpec,
    WHOLE,
    st.integers(0, 99),
    FLOATS,
    st.sampled_from(PLANS),
    st.none() | tensors(SHAPE),
    st.none() | st.integers(0, 99),
    st.none() | st.builds(Inpaint, tensors(SHAPE), tensors(SHAPE), st.none() | tensors(SHAPE)),
    st.none() | st.builds(Film, st.integers(1, 9), st.sampled_from(["x0", "xt", "both"])),
    st.booleans(),
    st.none() | CONDITIONS,
    st.integers(1, 3),
    st.none() | st.tuples(st.integers(8, 4096), st.integers(8, 4096)),
)


def arrived(rows: list[LiveRow]) -> tuple[Submit, list[RowSpec]]:
    (message,) = decode_for_engine(encode([submit_of(1 << 16, 2, 3.5, rows)]))
    assert isinstance(message, Submit)
    return message, specs_of(message)


def live(specs: list[RowSpec], deaths: int = 0) -> list[LiveRow]:
    job: Any = Submission.__new__(Submission)  # without an event loop
    return [LiveRow(job, index, spec, deaths) for index, spec in enumerate(specs)]


def require_equal(one: Any, other: Any) -> None:
    """Equal, as tensors to the bit."""
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        assert one.shape == other.shape
        assert torch.equal(one, other)
    elif isinstance(one, Plan):
        require_equal((one.table.float(), one.noise_scale), (other.table.float(), other.noise_scale))
        assert (one.levels is None) == (other.levels is None)
        if one.levels is not None:
            require_equal(one.levels.float(), other.levels.float())
        assert (one.steps, one.adds_noise, one.clips) == (other.steps, other.adds_noise, other.clips)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            require_equal(one[name], other[name])
    elif isinstance(one, tuple):
        assert type(one) is type(other) or type(one) is tuple
        for each, same in zip(one, other, strict=True):
            require_equal(each, same)
    else:
        assert one == other


@given(specs=st.lists(SPECS, min_size=1, max_size=4), deaths=st.integers(0, 1))
def test_every_field_of_a_row_arrives(specs: list[RowSpec], deaths: int) -> None:
    message, found = arrived(live(specs, deaths))
    assert (message.key, message.lane, message.expires_at) == (1 << 16, 2, 3.5)
    assert [row.index for row in message.rows] == [*range(len(specs))]
    assert {row.alone for row in message.rows} == {deaths > 0}
    for spec, again in zip(specs, found, strict=True):
        require_equal(spec, again)


def test_what_rows_share_is_sent_once_and_shared_again() -> None:
    context, latent = torch.rand(77, 768), torch.rand(SHAPE)
    row = RowSpec(1, 0, 7.5, PLANS[2], latent, conditions=Conditions({"context": context}, {"context": context + 1}))
    message, found = arrived(live([row._replace(seed=seed) for seed in range(8)]))
    assert len(message.tensors) == len(message.plans) + 2 == 3
    assert len({id(spec.plan) for spec in found}) == 1
    assert len({id(spec.conditions.inputs["context"]) for spec in found if spec.conditions is not None}) == 1
    plain = live([RowSpec(seed, 1, 1.0, PLANS[1]) for seed in range(4)])
    assert len(encode([submit_of(0, 0, 1.0, plain)])) < 200


@pytest.mark.parametrize("numbers", [np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.zeros((2, 0), np.float32)])
def test_results_arrive(numbers: np.ndarray) -> None:
    found = numbers_of(array_of(numbers))
    assert found.dtype == numbers.dtype
    np.testing.assert_array_equal(found, numbers)
