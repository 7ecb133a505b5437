"""Which sizes of calls are tried before a model serves."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor

from service.engine.model import Model
from service.engine.warmup import warm_up
from service.settings import Settings


@pytest.fixture
def sizes_tried(one_shot: Model, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """The sizes that are called for a model of those costs, on a clock that nothing but its calls moves."""

    def tried(call_ms: Callable[[int], float], **changes: object) -> list[int]:
        clock_s, sizes = 0.0, []

        def decode(z: Tensor, label: Tensor) -> Tensor:
            nonlocal clock_s
            clock_s += call_ms(len(z)) / 1000
            sizes.append(len(z))
            return one_shot.decode(z, label)

        monkeypatch.setattr(time, "perf_counter", lambda: clock_s)
        warm_up(replace(one_shot, decode=decode), settings.model_copy(update={"max_bucket": 32, **changes}))
        return sorted(set(sizes))

    return tried


@pytest.mark.parametrize(
    ("call_ms", "wanted"),
    [
        (lambda rows: 1 + rows, [1, 2, 4, 8, 16, 32]),
        (lambda rows: 5 + 10 * rows, [1, 2, 4, 8]),  # 85 ms are long, and a row of them costs a tenth less at most
        (lambda rows: 100 + rows, [1, 2, 4, 8, 16, 32]),  # long from the first on, and twice as many cost the same
        (lambda rows: 60 * rows, [1, 2]),
    ],
    ids=["short", "long and no cheaper a row", "long and cheaper a row", "slow"],
)
def test_sizes_that_are_long_and_save_nothing_are_left_out(
    sizes_tried: Callable[..., list[int]], call_ms: Callable[[int], float], wanted: list[int]
) -> None:
    assert sizes_tried(call_ms, tick_budget_ms=25.0) == wanted


def test_the_one_size_of_reproducible_bytes_is_tried_however_long_it_is(
    sizes_tried: Callable[..., list[int]],
) -> None:
    assert sizes_tried(lambda rows: 1000 * rows, deterministic=True, max_bucket=8) == [8]
