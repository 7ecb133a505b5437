import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.sampling.noise import RowNoise, image_seed

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
