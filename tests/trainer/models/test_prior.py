import pytest
import torch
from torch import Tensor, nn

from trainer.models.prior import CouplingFlow, PriorDecode, PriorEncode

CLASSES = 3


@pytest.fixture(params=[2, 5, 8])
def latent(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def flow(latent: int) -> CouplingFlow:
    """One that has moved away from its start, the identity."""
    flow = CouplingFlow(latent, CLASSES, hidden=16, layers=5).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, 0.0, 0.4)
    return flow.requires_grad_(False)


def vectors(latent: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, latent, generator=generator, dtype=torch.float64), torch.arange(count) % (CLASSES + 1)


def test_the_inverse_undoes_the_flow(flow: CouplingFlow, latent: int) -> None:
    noise, label = vectors(latent, 9)
    codes = flow(noise, label)
    assert (codes - noise).abs().max() > 0.1
    torch.testing.assert_close(flow.inverse(codes, label)[0], noise)
    torch.testing.assert_close(flow(flow.inverse(noise, label)[0], label), noise)


def test_the_log_determinant_is_that_of_the_jacobian(flow: CouplingFlow, latent: int) -> None:
    codes, label = vectors(latent, 4)
    _, log_determinant = flow.inverse(codes, label)
    for row in range(4):
        jacobian = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
            lambda code, row=row: flow.inverse(code, label[row : row + 1])[0], codes[row : row + 1]
        )
        sign, wanted = torch.linalg.slogdet(jacobian[0, :, 0, :])
        assert sign != 0
        torch.testing.assert_close(log_determinant[row], wanted)


def test_every_dimension_is_moved(flow: CouplingFlow, latent: int) -> None:
    """The halves are exchanged between couplings: none passes through untouched."""
    noise, label = vectors(latent, 16)
    assert ((flow(noise, label) - noise.flip(1)).abs().amax(dim=0) > 1e-3).all()


def test_a_fresh_flow_of_even_length_is_the_identity() -> None:
    flow = CouplingFlow(6, CLASSES, hidden=8, layers=4)
    noise, label = torch.randn(3, 6), torch.arange(3)
    assert torch.equal(flow(noise, label), noise)
    inverse, log_determinant = flow.inverse(noise, label)
    assert torch.equal(inverse, noise)
    assert not log_determinant.any()


class Codes(nn.Module):
    """An encoder of "pictures" that are codes, of deviation 0.2."""

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return image, torch.full_like(image, 0.04).log()


class Same(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return z


def test_noise_decodes_to_the_code_that_it_came_from(flow: CouplingFlow, latent: int) -> None:
    codes, label = vectors(latent, 7)
    noise, _ = PriorEncode(Codes(), flow)(codes, label)
    torch.testing.assert_close(PriorDecode(Same(), flow)(noise, label), codes)


def test_the_deviation_is_carried_through_the_inverse() -> None:
    """Of the identity it stays as it was."""
    flow = CouplingFlow(4, CLASSES, hidden=8, layers=2)
    _, logvar = PriorEncode(Codes(), flow)(torch.randn(5, 4), torch.arange(5) % 4)
    torch.testing.assert_close(logvar.exp(), torch.full((5, 4), 0.04), rtol=1e-4, atol=0.0)
