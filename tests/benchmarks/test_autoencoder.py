import torch

from benchmarks.autoencoder import principal_components, projected


def test_the_first_components_keep_what_varies_most() -> None:
    """Points in a plane, shifted: two components give them back, one gives the longer axis."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q[:2]
    spread = torch.randn(4000, 2, generator=generator) * torch.tensor([3.0, 0.5])
    rows = spread @ axes + 7.0
    mean, components = principal_components(rows)
    torch.testing.assert_close(projected(rows, mean, components[:, :2]), rows, rtol=0, atol=1e-4)
    left = (projected(rows, mean, components[:, :1]) - rows).square().sum(dim=1).mean()
    assert 0.2 < float(left) < 0.3  # the variance along the shorter axis, 0.25
