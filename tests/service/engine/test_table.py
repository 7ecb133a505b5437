"""The table's places: what a row finds in one that others had before."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from service.engine.model import Model
from service.engine.rows import RowSpec
from service.engine.table import RowTable, Slots
from service.engine.tick import Batch, Step
from service.engine.transfer import pack, unpack
from service.sampling.noise import RowNoise
from service.sampling.step import Inpaint
from tests.service.engine.conftest import new_job, request_rows

NO_CLASS = 3


async def seat(table: RowTable, rows: list[RowSpec]) -> tuple[Slots, Tensor, Batch]:
    """Give rows places, claim all that are ready and gather them: where they are, on host and device, and what."""
    _, live = new_job(rows)
    table.admit(live)
    return gather(table)


def gather(table: RowTable) -> tuple[Slots, Tensor, Batch]:
    slots = table.claim(1000)
    return slots, *table.gather(slots)


def step_of(batch: Batch) -> Step:
    assert batch.step is not None
    return batch.step


def next_tick(table: RowTable, slots: Slots, places: Tensor, batch: Batch) -> tuple[Slots, Tensor, Batch]:
    """Keep the rows as they are, and gather them for their next step."""
    table.store(places, batch.x, batch.x)
    table.release(slots)
    return gather(table)


@pytest.mark.parametrize(("kind", "draws"), [("one_shot", 0), ("diffusion", 2)])
async def test_a_reused_place_starts_from_its_pictures_own_noise(
    kind: str, draws: int, request: pytest.FixtureRequest
) -> None:
    """To the bit, in latents of 4 numbers and of 64, in the first draw and those of the solver's steps."""
    model: Model = request.getfixturevalue(kind)

    table = RowTable(model, 3)
    for seed in range(0, 40, 7):
        plan = model.plan("ddpm", 4)
        slots, places, batch = await seat(table, request_rows(3, seed, NO_CLASS, 1.0, plan))
        own = [RowNoise(row.spec.seed) for row in table.rows(slots)]
        shape = model.manifest.latent_shape
        assert torch.equal(batch.x, torch.stack([noise.draw(shape) for noise in own]))
        for _ in range(draws):
            drawn = step_of(batch).noise
            assert drawn is not None
            assert torch.equal(drawn, torch.stack([noise.draw(shape) for noise in own]))
            slots, places, batch = next_tick(table, slots, places, batch)
        table.drop(slots)


async def test_noise_is_drawn_for_the_rows_that_add_some(diffusion: Model) -> None:
    table = RowTable(diffusion, 3)
    plans = [diffusion.plan("ddim", 4), diffusion.plan("ddpm", 4), diffusion.plan("ddim", 4)]
    rows = [RowSpec(5 + index, NO_CLASS, 1.0, plan) for index, plan in enumerate(plans)]
    slots, _, batch = await seat(table, rows)
    drawn = step_of(batch).noise
    assert drawn is not None
    noise = RowNoise(6)
    noise.draw((1, 8, 8))  # its start
    adding = [row.spec.seed == 6 for row in table.rows(slots)]
    assert torch.equal(drawn[adding][0], noise.draw((1, 8, 8)))
    assert not drawn[~np.array(adding)].any()
    table.drop(slots)
    _, _, batch = await seat(table, [rows[0], rows[2]])
    assert step_of(batch).noise is None


async def test_a_reused_place_holds_nothing_of_the_row_before(diffusion: Model) -> None:
    table = RowTable(diffusion, 2)
    old = RowSpec(1, 1, 2.0, diffusion.plan("ddpm", 9), torch.full((1, 8, 8), float("nan")))
    slots, places, batch = await seat(table, [old, old])
    table.store(places, batch.x, batch.x)
    table.drop(slots)
    slots, _, batch = await seat(table, request_rows(2, 3, NO_CLASS, 1.0, diffusion.plan("ddim", 2)))
    step = step_of(batch)
    assert batch.x.isfinite().all()
    assert not step.x_start_prev.any()
    np.testing.assert_array_equal(table.first_step(slots), [True, True])
    np.testing.assert_array_equal(batch.ending, [False, False])
    np.testing.assert_array_equal(step.guided, [False, False])
    assert step.guidance is None
    assert batch.inputs["label"].tolist() == [NO_CLASS, NO_CLASS]
    torch.testing.assert_close(
        step.coefficients, diffusion.plan("ddim", 2).table[:1].float().expand(2, 5), rtol=0, atol=0
    )


async def test_a_latent_that_is_given_replaces_the_noise_and_not_what_comes_after(diffusion: Model) -> None:
    table = RowTable(diffusion, 1)
    latent = torch.full((1, 8, 8), 0.25)
    _, _, batch = await seat(table, [RowSpec(5, NO_CLASS, 1.0, diffusion.plan("ddpm", 4), latent)])
    assert torch.equal(batch.x[0], latent)
    noise = RowNoise(5)
    noise.draw((1, 8, 8))
    drawn = step_of(batch).noise
    assert drawn is not None
    assert torch.equal(drawn[0], noise.draw((1, 8, 8)))


async def test_rows_that_begin_and_rows_that_go_on_share_a_tick(diffusion: Model) -> None:
    table = RowTable(diffusion, 4)
    spoiled, places, _ = await seat(table, request_rows(4, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 3)))
    table.store(places, *[torch.full((4, 1, 8, 8), float("nan"))] * 2)
    table.drop(spoiled)
    begun, places, first = await seat(table, request_rows(2, 7, NO_CLASS, 1.0, diffusion.plan("ddim", 3)))
    table.store(places, first.x + 1, first.x + 2)
    table.release(begun)
    slots, _, both = await seat(table, request_rows(1, 50, NO_CLASS, 1.0, diffusion.plan("ddim", 3)))
    begins = table.first_step(slots)
    assert begins.sum() == 1
    assert torch.equal(both.x[~begins], first.x + 1)
    assert torch.equal(both.x[begins][0], RowNoise(50).draw((1, 8, 8)))
    x_start_prev = step_of(both).x_start_prev
    assert torch.equal(x_start_prev[~begins], first.x + 2)
    assert not x_start_prev[begins].any()


async def test_a_tick_brings_all_that_its_rows_need_by_one_copy(
    diffusion: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that begin and rows that go on, with noise, with and without a mask; and the result is noted by none."""
    copies: list[int] = []

    def copied(tensors: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
        copies.append(len(tensors))
        return unpack(pack(tensors, pinned=False), tensors)

    monkeypatch.setattr("service.engine.table.to_device_together", copied)
    plan, known = diffusion.plan("ddpm", 4), torch.full((1, 8, 8), 0.5)
    rows = request_rows(3, 0, 1, 2.0, plan)
    rows[1] = rows[1]._replace(inpaint=Inpaint(torch.zeros(1), known))

    table = RowTable(diffusion, 8)
    slots, places, batch = await seat(table, rows)
    next_tick(table, slots, places, batch)
    assert len(copies) == 2
    table.drop(slots)
    slots, places, batch = await seat(table, rows)
    table.store(places, batch.x, batch.x)
    table.release(slots)
    copies.clear()
    slots, places, batch = await seat(table, rows)
    assert copies == [10]
    assert places.tolist() == slots.tolist()
    step = step_of(batch)
    assert step.noise is not None
    assert step.inpaint is not None
    masked = [row.spec.inpaint is not None for row in table.rows(slots)]
    assert [bool((mask == 0).all()) for mask in step.inpaint.mask] == masked
    for row, x in zip(table.rows(slots), batch.x, strict=True):
        assert torch.equal(x, RowNoise(row.spec.seed).draw((1, 8, 8)))  # kept as it began


async def test_rows_of_a_call_are_counted_with_their_guidance(diffusion: Model) -> None:
    table = RowTable(diffusion, 8)
    _, plain = new_job(request_rows(3, 0, 1, 1.0, diffusion.plan()))
    _, guided = new_job(request_rows(2, 0, 1, 2.0, diffusion.plan()))
    table.admit(plain + guided)
    assert (table.ready, table.ready_forward_rows, table.live, table.free) == (5, 7, 5, 3)
    slots = table.claim(4)
    assert (table.ready, table.ready_forward_rows) == (2, 4)
    assert len(table.claim(4)) == 2
    assert (table.ready, table.ready_forward_rows, table.live) == (0, 0, 5)
    table.drop(slots)
    assert (table.live, table.free) == (2, 6)
