"""The table's places: what a row finds in one that others had before."""

import asyncio

import numpy as np
import pytest
import torch
from torch import Tensor

from service.engine.model import Model
from service.engine.rows import RowSpec
from service.engine.table import RowTable, Slots
from service.sampling.noise import RowNoise
from tests.service.engine.conftest import new_job, request_rows

NO_CLASS = 3


async def seat(table: RowTable, rows: list[RowSpec]) -> tuple[Slots, Tensor]:
    """Give rows places and claim them; where, and what they start from."""
    _, live = new_job(rows)
    table.admit(live)
    slots = table.claim(1000)
    return slots, table.begin_tick(slots)


@pytest.mark.parametrize(("kind", "draws"), [("one_shot", 0), ("diffusion", 2)])
def test_a_reused_place_starts_from_its_pictures_own_noise(
    kind: str, draws: int, request: pytest.FixtureRequest
) -> None:
    """To the bit, in latents of 4 numbers and of 64, in the first draw and those of the solver's steps."""
    model: Model = request.getfixturevalue(kind)

    async def scenario() -> None:
        table = RowTable(model, 3)
        for seed in range(0, 40, 7):
            plan = model.plan("ddpm", 4)
            slots, x = await seat(table, request_rows(3, seed, NO_CLASS, 1.0, plan))
            own = [RowNoise(row.spec.seed) for row in table.rows(slots)]
            shape = model.manifest.latent_shape
            assert torch.equal(x, torch.stack([noise.draw(shape) for noise in own]))
            adding = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]]).expand(3, 5)
            for _ in range(draws):
                drawn = table.draw_noise(slots, adding)
                assert drawn is not None
                assert torch.equal(drawn, torch.stack([noise.draw(shape) for noise in own]))
            table.drop(slots)

    asyncio.run(scenario())


def test_noise_is_drawn_for_the_rows_that_add_some(diffusion: Model) -> None:
    async def scenario() -> None:
        table = RowTable(diffusion, 3)
        slots, _ = await seat(table, request_rows(3, 5, NO_CLASS, 1.0, diffusion.plan("ddpm", 4)))
        coefficients = torch.zeros(3, 5)
        assert table.draw_noise(slots, coefficients) is None
        coefficients[1, 4] = 0.5
        drawn = table.draw_noise(slots, coefficients)
        assert drawn is not None
        noise = RowNoise(6)
        noise.draw((1, 8, 8))  # its start
        assert torch.equal(drawn[1], noise.draw((1, 8, 8)))
        assert not drawn[[0, 2]].any()

    asyncio.run(scenario())


def test_a_reused_place_holds_nothing_of_the_row_before(diffusion: Model) -> None:
    async def scenario() -> None:
        table = RowTable(diffusion, 2)
        old = RowSpec(1, 1, 2.0, diffusion.plan("ddpm", 9), torch.full((1, 8, 8), float("nan")))
        slots, x = await seat(table, [old, old])
        table.keep(slots, x, x)
        table.drop(slots)
        slots, x = await seat(table, request_rows(2, 3, NO_CLASS, 1.0, diffusion.plan("ddim", 2)))
        assert x.isfinite().all()
        assert not table.x_start_prev(slots).any()
        np.testing.assert_array_equal(table.first_step(slots), [True, True])
        np.testing.assert_array_equal(table.last_step(slots), [False, False])
        np.testing.assert_array_equal(table.guided(slots), [False, False])
        assert table.guidance_scale(slots).tolist() == [1.0, 1.0]
        assert table.label(slots).tolist() == [NO_CLASS, NO_CLASS]
        torch.testing.assert_close(
            table.coefficients(slots), diffusion.plan("ddim", 2).table[:1].float().expand(2, 5), rtol=0, atol=0
        )

    asyncio.run(scenario())


def test_a_latent_that_is_given_replaces_the_noise_and_not_what_comes_after(diffusion: Model) -> None:
    async def scenario() -> None:
        table = RowTable(diffusion, 1)
        latent = torch.full((1, 8, 8), 0.25)
        slots, x = await seat(table, [RowSpec(5, NO_CLASS, 1.0, diffusion.plan("ddpm", 4), latent)])
        assert torch.equal(x[0], latent)
        noise = RowNoise(5)
        noise.draw((1, 8, 8))
        drawn = table.draw_noise(slots, torch.ones(1, 5))
        assert drawn is not None
        assert torch.equal(drawn[0], noise.draw((1, 8, 8)))

    asyncio.run(scenario())


def test_rows_that_begin_and_rows_that_go_on_share_a_tick(diffusion: Model) -> None:
    async def scenario() -> None:
        table = RowTable(diffusion, 4)
        spoiled, _ = await seat(table, request_rows(4, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 3)))
        table.keep(spoiled, *[torch.full((4, 1, 8, 8), float("nan"))] * 2)
        table.drop(spoiled)
        begun, x = await seat(table, request_rows(2, 7, NO_CLASS, 1.0, diffusion.plan("ddim", 3)))
        table.keep(begun, x + 1, x + 2)
        table.release(begun)
        slots, both = await seat(table, request_rows(1, 50, NO_CLASS, 1.0, diffusion.plan("ddim", 3)))
        begins = table.first_step(slots)
        assert begins.sum() == 1
        assert torch.equal(both[~begins], x + 1)
        assert torch.equal(both[begins][0], RowNoise(50).draw((1, 8, 8)))
        x_start_prev = table.x_start_prev(slots)
        assert torch.equal(x_start_prev[~begins], x + 2)
        assert not x_start_prev[begins].any()

    asyncio.run(scenario())


def test_rows_of_a_call_are_counted_with_their_guidance(diffusion: Model) -> None:
    async def scenario() -> None:
        table = RowTable(diffusion, 8)
        _, plain = new_job(request_rows(3, 0, 1, 1.0, diffusion.plan()))
        _, guided = new_job(request_rows(2, 0, 1, 2.0, diffusion.plan()))
        table.admit(plain + guided)
        assert (table.ready, table.ready_call_rows, table.live, table.free) == (5, 7, 5, 3)
        slots = table.claim(4)
        assert (table.ready, table.ready_call_rows) == (2, 4)
        assert len(table.claim(4)) == 2
        assert (table.ready, table.ready_call_rows, table.live) == (0, 0, 5)
        table.drop(slots)
        assert (table.live, table.free) == (2, 6)

    asyncio.run(scenario())
