"""The inputs of rows: each row of a call gets its own, whatever sat in its slot before."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.engine.inputs import CLASSES, Input, bytes_per_row, check_conditions
from service.engine.model import Model
from service.engine.rows import Adapter, Conditions, RowSpec
from service.engine.table import RowTable, most_rows
from service.engine.tick import StepResult, run_isolating
from tests.service.engine.conftest import LaneOf, new_job, put, tick

NO_CLASS = 3
DECLARED: Mapping[str, Input] = {
    **CLASSES,
    "context": Input((2, 3), negative=True),
    "scale": Input((), optional=True),
    "hint": Input((1, 2, 2), optional=True),
}


def context(value: float) -> Tensor:
    return torch.full((2, 3), float(value))


def with_hint(spec: RowSpec, value: float, window: tuple[int, int] | None = None) -> RowSpec:
    assert spec.conditions is not None
    given = {**spec.conditions.inputs, "hint": torch.full((1, 2, 2), value), "scale": torch.tensor(value)}
    windows = {} if window is None else {"hint": window, "scale": window}
    return spec._replace(conditions=spec.conditions._replace(inputs=given, windows=windows))


class Heard:
    """A network that notes what each row of its calls was given; rows with a context of ``poison`` raise."""

    def __init__(self, poison: float | None = None) -> None:
        self.calls: list[dict[str, Tensor]] = []
        self.adapters: list[Any] = []
        self._poison = poison

    def __call__(self, x: Tensor, t: Tensor, inputs: Mapping[str, Tensor], adapters: Any = ()) -> Tensor:
        self.calls.append({**inputs, "x": x})
        self.adapters.append(adapters)
        assert all(len(tensor) == len(x) for tensor in inputs.values())
        assert len(adapters) in (0, len(x))
        if self._poison is not None and bool((inputs["context"] == self._poison).any()):
            raise RuntimeError("poisoned")
        return 0.1 * inputs["context"].mean(dim=(1, 2))[:, None, None, None] + 0 * x


@pytest.fixture
def conditioned(diffusion: Model) -> Callable[[Heard], Model]:
    return lambda heard: replace(diffusion, inputs=DECLARED, denoise=heard, adapters=("ink", "chalk"))


def row_of(model: Model, index: int, scale: float, steps: int) -> RowSpec:
    """A row whose every input is of its own ``index``."""
    conditions = Conditions({"context": context(index)}, {"context": context(-index)} if scale != 1 else {})
    return RowSpec(index, index % 3, scale, model.plan("ddim", steps), conditions=conditions)


KINDS = st.lists(
    st.tuples(
        st.sampled_from([1.0, 2.0]), st.integers(1, 4), st.sampled_from([None, (0, 9), (1, 2), (0, 0)]), st.booleans()
    ),
    min_size=1,
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(kinds=KINDS)
async def test_every_row_of_a_call_is_given_its_own(
    conditioned: Callable[[Heard], Model], lane_of: LaneOf, kinds: list[tuple[float, int, Any, bool]]
) -> None:
    heard = Heard()
    model = conditioned(heard)
    lane = lane_of(model, rows=4, bucket=6)
    rows = [row_of(model, index + 1, scale, steps) for index, (scale, steps, _, _) in enumerate(kinds)]
    for place, (_, _, window, adapted) in enumerate(kinds):
        if window is not None:
            rows[place] = with_hint(rows[place], 10.0 * (place + 1), window)
        if adapted:
            given = rows[place].conditions
            assert given is not None
            rows[place] = rows[place]._replace(conditions=given._replace(adapter=Adapter("ink", float(place + 1))))
    job = put(lane, rows)
    done = [0] * len(rows)
    while not lane.is_empty:
        before = len(heard.calls)
        tick(lane)
        for call, adapters in zip(heard.calls[before:], heard.adapters[before:], strict=True):
            acting = set()
            for place in range(len(call["x"])):
                index = int(call["context"][place].abs()[0, 0]) - 1
                negative = bool(call["context"][place][0, 0] < 0)
                assert int(call["label"][place]) == (NO_CLASS if negative else (index + 1) % 3)
                window = kinds[index][2]
                acts = window is not None and window[0] <= done[index] < window[1]
                acting |= {index} if acts else set()
                if "hint" in call:
                    expected = 10.0 * (index + 1) if acts else 0.0
                    assert bool((call["hint"][place] == expected).all())
                    assert float(call["scale"][place]) == expected
                wanted = Adapter("ink", float(index + 1)) if kinds[index][3] else None
                assert (adapters[place] if adapters else None) == wanted
            assert ("hint" in call) == bool(acting)
            for index in {int(each.abs()[0, 0]) - 1 for each in call["context"]}:
                done[index] += 1
    await job.future
    assert done == [steps for _, steps, _, _ in kinds]


async def test_a_batch_that_fails_is_bisected_with_its_inputs(conditioned: Callable[[Heard], Model]) -> None:
    model = conditioned(Heard(poison=3.0))
    rows = [row_of(model, index, 1.0 + index % 2, 2) for index in range(1, 8)]
    rows[4] = with_hint(rows[4], 5.0)
    table = RowTable(model, 8)
    table.admit(new_job(rows)[1])
    slots = table.claim(100)
    _, batch = table.gather(slots)
    results = run_isolating(model, batch, lambda *_: None)
    order = [row.index for row in table.rows(slots)]
    failed = [order[part.start] for part, result in results if not isinstance(result, StepResult)]
    assert failed == [2]
    for part, result in results:
        if isinstance(result, StepResult):
            expected = [rows[index].conditions.inputs["context"][0, 0] for index in order[part]]  # type: ignore[union-attr]
            scales = [rows[index].guidance_scale for index in order[part]]
            guided = [0.1 * float(value) * (2 * scale - 1) for value, scale in zip(expected, scales, strict=True)]
            clamped = np.clip(guided, -1, 1)
            np.testing.assert_allclose(result.x_start[:, 0, 0, 0].numpy(), clamped, rtol=1e-5)


@pytest.mark.parametrize(
    ("conditions", "scale", "reason"),
    [
        (None, 1.0, "context: this input is missing"),
        (Conditions({"context": context(1)}), 2.0, "context: this input is missing"),
        (Conditions({"context": torch.zeros(3)}), 1.0, r"context: torch.float32 of \(3,\), not float32 of \(2, 3\)"),
        (Conditions({"context": context(1).double()}), 1.0, "context: torch.float64"),
        (Conditions({"context": context(1), "mask": context(1)}), 1.0, "mask: the model has no such input, only"),
        (
            Conditions({"context": context(1)}, {"context": context(2), "hint": torch.zeros(1, 2, 2)}),
            2.0,
            "hint: the model has no such input",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    diffusion: Model, conditions: Conditions | None, scale: float, reason: str
) -> None:
    row = RowSpec(0, 0, scale, diffusion.plan("ddim", 2), conditions=conditions)
    with pytest.raises(ValueError, match=reason):
        check_conditions(DECLARED, row)
    check_conditions(CLASSES, row._replace(conditions=None))


def test_large_rows_get_fewer_slots(diffusion: Model) -> None:
    assert most_rows(diffusion, 256) == 256
    large = {**CLASSES, "hint": Input((3, 1024, 1024), optional=True), "context": Input((77, 2048), negative=True)}
    assert bytes_per_row(large) == 4 * (3 * 1024 * 1024 + 2 * 77 * 2048)
    assert most_rows(replace(diffusion, inputs=large), 256) == 77
