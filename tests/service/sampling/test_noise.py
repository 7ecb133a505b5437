from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given
from hypothesis import strategies as st

from service.sampling.noise import RowNoise, draw_each, image_seed

SEEDS = st.integers(0, 2**32 - 1)


@given(seed=SEEDS, index=st.integers(0, 1000), other=st.integers(0, 1000))
def test_image_seeds_of_a_request_are_distinct_seeds(seed: int, index: int, other: int) -> None:
    assert 0 <= image_seed(seed, index) < 2**32
    assert (image_seed(seed, index) == image_seed(seed, other)) == (index == other)
    assert image_seed(image_seed(seed, index), other) == image_seed(seed, index + other)


def test_image_seed_wraps() -> None:
    assert image_seed(5, 2) == 7
    assert image_seed(2**32 - 1, 1) == 0


@given(seed=SEEDS)
def test_same_seed_draws_the_same_whatever_else_draws(seed: int) -> None:
    noise, again, neighbour = RowNoise(seed), RowNoise(seed), RowNoise((seed + 1) % 2**32)
    first = noise.draw((2, 3))
    neighbour.draw((7,))
    torch.rand(1)
    assert torch.equal(first, again.draw((2, 3)))
    assert torch.equal(noise.draw((4,)), again.draw((4,)))


def test_draws_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    RowNoise(0).draw((64,))
    assert torch.equal(torch.get_rng_state(), state)


def test_neighbouring_seeds_and_later_draws_are_independent() -> None:
    draws = torch.stack([noise.draw((4096,)) for noise in (RowNoise(0), RowNoise(1)) for _ in range(2)])
    correlation = draws.corrcoef() - torch.eye(4)
    assert correlation.abs().max() < 5 / 4096**0.5


def test_draws_are_standard_normal_float32() -> None:
    noise = RowNoise(0).draw((3, 100, 100))
    assert noise.dtype == torch.float32
    assert noise.shape == (3, 100, 100)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.03)


# Fewer than 16 numbers are drawn one by one and more in blocks: another stream of the same generator.
SHAPES = [(1,), (2,), (3,), (4,), (5, 3), (15,), (16,), (17,), (31,), (1, 8, 8), (3, 5, 7), (1, 28, 28)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(seed=SEEDS, before=SEEDS, drawn=st.integers(0, 3))
def test_draws_are_those_of_a_new_generator_to_the_bit(
    shape: tuple[int, ...], seed: int, before: int, drawn: int
) -> None:
    """The first and later ones, in place or not, whatever picture the noise was of before."""
    new, restarted, filling = RowNoise(seed), RowNoise(before), RowNoise(before)
    for _ in range(drawn):
        restarted.draw(shape)
        filling.fill(torch.empty(shape))
    restarted.restart(seed)
    filling.restart(seed)
    places = torch.full((5, *shape), float("nan"))
    generator = torch.Generator().manual_seed(seed)
    for place in range(1, 4):
        expected = torch.randn(shape, generator=generator)
        assert torch.equal(new.draw(shape), expected)
        assert torch.equal(restarted.draw(shape), expected)
        filled = filling.fill(places[place])
        assert filled.data_ptr() == places[place].data_ptr()
        assert torch.equal(places[place], expected)
    assert places[[0, 4]].isnan().all()  # its neighbours are not touched


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(seeds=st.lists(SEEDS, max_size=5))
def test_many_first_draws_are_each_seeds_own_to_the_bit(shape: tuple[int, ...], seeds: list[int]) -> None:
    state = torch.get_rng_state()
    places = torch.full((len(seeds), *shape), float("nan"))
    draw_each(seeds, places)
    for place, seed in zip(places, seeds, strict=True):
        assert torch.equal(place, torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_that_draw_at_once_do_not_mix_their_noise() -> None:
    expected = torch.stack([RowNoise(seed).draw((1, 8, 8)) for seed in range(8)])

    def mixed(_: int) -> int:
        places = torch.empty(200, 8, 1, 8, 8)
        for place in places:
            draw_each(list(range(8)), place)
        return int((places != expected).sum())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(mixed, range(4))) == [0] * 4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_restart_forgets_what_a_draw_of_another_shape_left(shape: tuple[int, ...]) -> None:
    """Single numbers are drawn in pairs, and the second of a pair is kept for the next draw."""
    noise = RowNoise(7)
    for size in (1, 3, 16, 1):
        noise.draw((size,))
    noise.restart(8)
    assert torch.equal(noise.draw(shape), torch.randn(shape, generator=torch.Generator().manual_seed(8)))


@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 3, 3), (4, 7, 5)])
def test_the_draws_are_those_of_a_diffusers_pipeline(shape: tuple[int, ...]) -> None:
    noise, generator = RowNoise(7), torch.Generator().manual_seed(7)
    for _ in range(3):
        expected = randn_tensor((1, *shape), generator=generator, device=torch.device("cpu"), dtype=torch.float32)
        assert torch.equal(noise.draw(shape), expected[0])
    starts = torch.empty(2, *shape)
    draw_each([7, 8], starts)
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    assert torch.equal(starts, randn_tensor((2, *shape), generator=generators, dtype=torch.float32))
