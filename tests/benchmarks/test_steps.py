import pytest
import torch

from benchmarks.steps import sliced_wasserstein


def test_a_set_is_at_no_distance_from_itself_in_any_order() -> None:
    pictures = torch.rand(200, 16, generator=torch.Generator().manual_seed(0))
    assert sliced_wasserstein(pictures, pictures.flip(0)) == pytest.approx(0, abs=1e-6)


def test_the_distance_of_a_shift_is_its_mean_projection() -> None:
    """A shift along one axis moves each projection by that axis' share: E|u| of a unit vector in 16 dimensions."""
    pictures = torch.rand(200, 16, generator=torch.Generator().manual_seed(0))
    shifted = pictures.clone()
    shifted[:, 0] += 1.0
    assert sliced_wasserstein(shifted, pictures) == pytest.approx(0.2, abs=0.03)


def test_noise_is_farther_away_than_a_blur() -> None:
    pictures = torch.rand(200, 16, generator=torch.Generator().manual_seed(0)).round()
    noisy = pictures + torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    assert sliced_wasserstein(noisy, pictures) > sliced_wasserstein(0.9 * pictures + 0.05, pictures)
