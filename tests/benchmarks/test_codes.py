import torch
from torch import Tensor, nn

from benchmarks.codes import WithoutClass, per_call


class _Decode(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return z + label[:, None]


def test_a_code_is_decoded_without_a_class() -> None:
    """The only label of an autoencoder without classes is 0."""
    code = torch.randn(3, 4)
    torch.testing.assert_close(WithoutClass(_Decode())(code), code, rtol=0, atol=0)


def test_the_first_call_is_not_counted() -> None:
    calls: list[int] = []
    assert per_call(lambda: calls.append(1), 3) >= 0
    assert len(calls) == 4
