from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.compute.draws import Draws, step_seed

ROWS = 12
BATCH: dict[str, Callable[[Draws, int], Tensor]] = {
    "randn": lambda draws, rows: draws.randn(rows, 3, 2),
    "randn_like": lambda draws, rows: draws.randn_like(torch.empty(rows, 5, dtype=torch.float64)),
    "rand": lambda draws, rows: draws.rand(rows),
    "randint": lambda draws, rows: draws.randint(1000, rows),
}


def begun(seed: int, part: int = 0, parts: int = 1) -> Draws:
    draws = Draws(torch.device("cpu"))
    draws.restart(seed, part, parts)
    return draws


@pytest.mark.parametrize("parts", [1, 2, 3, 12])
def test_the_parts_together_draw_what_one_draws_alone(parts: int) -> None:
    alone, apart = begun(7), [begun(7, part, parts) for part in range(parts)]
    for draw in BATCH.values():  # one after the other: each goes on where the last one stopped
        whole = draw(alone, ROWS)
        assert torch.equal(torch.cat([draw(each, ROWS // parts) for each in apart]), whole)
        assert len(whole) == ROWS


@pytest.mark.parametrize("draw", BATCH.values(), ids=BATCH)
def test_a_seed_gives_its_numbers_again_and_another_gives_others(draw: Callable[[Draws, int], Tensor]) -> None:
    draws = begun(7)
    first, second = draw(draws, ROWS), draw(draws, ROWS)
    draws.restart(7)
    assert torch.equal(draw(draws, ROWS), first)
    assert not torch.equal(second, first)
    assert not torch.equal(draw(begun(8), ROWS), first)


def test_torchs_own_generator_has_no_part_in_it() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = begun(7).randn(ROWS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(begun(7).randn(ROWS), first)


def test_the_numbers_have_their_distribution_and_type() -> None:
    draws = begun(0)
    normal, uniform, whole = draws.randn(100_000), draws.rand(100_000), draws.randint(10, 100_000)
    assert float(normal.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(normal.var()) == pytest.approx(1.0, abs=0.02)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.005)
    assert set(whole.tolist()) == set(range(10))
    assert draws.randn_like(torch.empty(2, dtype=torch.float64)).dtype == torch.float64
    assert (normal.dtype, uniform.dtype, whole.dtype) == (torch.float32, torch.float32, torch.int64)


def test_no_two_batches_of_a_run_share_a_seed() -> None:
    seeds = {step_seed(3, step) for step in range(100_000)}
    assert len(seeds) == 100_000
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert step_seed(2**32 - 1, 10**9) < 2**32
    assert not seeds & {step_seed(4, step) for step in range(100_000)}
