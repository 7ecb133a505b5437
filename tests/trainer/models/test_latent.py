import pytest
import torch
from torch import Tensor, nn

from trainer.models.latent import LatentDecode, LatentEncode, Standardise

SCALES = torch.tensor([0.1, 5.0]).view(1, 2, 1, 1)


@pytest.fixture
def codes() -> Tensor:
    return 3.0 + SCALES * torch.randn(50, 2, 7, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def standardise(codes: Tensor) -> Standardise:
    fitted = Standardise(2)
    fitted.fit(codes)
    return fitted


def test_fitted_codes_have_mean_0_and_variance_1_in_every_channel(codes: Tensor, standardise: Standardise) -> None:
    latent = standardise(codes)
    torch.testing.assert_close(latent.mean(dim=(0, 2, 3)), torch.zeros(2), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(latent.std(dim=(0, 2, 3)), torch.ones(2), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(standardise.inverse(latent), codes)


def test_the_statistics_are_kept_with_the_weights(codes: Tensor, standardise: Standardise) -> None:
    other = Standardise(2)
    assert torch.equal(other(codes), codes)
    other.load_state_dict(standardise.state_dict())
    assert torch.equal(other(codes), standardise(codes))


class Codes(nn.Module):
    """An encoder of "pictures" that are codes, whose deviation is as wide as the channel's."""

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return image, (2 * SCALES.log()).expand_as(image)


class Same(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return z


def test_mean_and_variance_of_a_code_are_scaled_alike(codes: Tensor, standardise: Standardise) -> None:
    label = torch.zeros(50, dtype=torch.int64)
    mean, logvar = LatentEncode(Codes(), standardise)(codes, label)
    torch.testing.assert_close(mean, standardise(codes))
    torch.testing.assert_close((0.5 * logvar).exp(), (SCALES / standardise.deviation).expand_as(codes))
    torch.testing.assert_close(LatentDecode(Same(), standardise)(mean, label), codes)
