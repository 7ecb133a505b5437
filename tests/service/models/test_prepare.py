import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.models.prepare import FEW_CHANNELS, prepared
from tests.service.engine.conftest import CPU

UPWARD: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}


def operations(part: Any) -> list[str]:
    return [node.kind() for node in part.graph.nodes()]


def layers(channels: int, **options: Any) -> nn.Module:
    """A convolution, which gives its result channels-last on a CPU, and a transposed one to this many channels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(6, channels, **options)).eval()


@pytest.mark.parametrize(
    "options",
    [
        UPWARD,
        UPWARD | {"bias": False},
        {"kernel_size": 3},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": (2, 5), "stride": (3, 2), "padding": (0, 2), "output_padding": (2, 0)},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, FEW_CHANNELS])
def test_a_transposed_convolution_to_few_channels_becomes_a_product(channels: int, options: dict[str, Any]) -> None:
    network = layers(channels, **options)
    part = prepared(torch.jit.script(copy.deepcopy(network)), CPU)
    assert "aten::col2im" in operations(part)
    assert "aten::conv_transpose2d" not in operations(part)
    with torch.inference_mode():
        for rows in (1, 3):
            for height, width in ((9, 7), (4, 12)):
                x = torch.randn(rows, 2, height, width)
                torch.testing.assert_close(part(x), network(x))


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (FEW_CHANNELS + 1, UPWARD),
        (2, UPWARD | {"groups": 2}),
        (1, {"kernel_size": 3, "dilation": 2, "output_padding": 1}),
    ],
    ids=["many channels", "grouped", "dilated"],
)
def test_every_other_transposed_convolution_stays(channels: int, options: dict[str, Any]) -> None:
    network = layers(channels, **options)
    part = prepared(torch.jit.script(copy.deepcopy(network)), CPU)
    assert "aten::conv_transpose2d" in operations(part)
    x = torch.randn(2, 2, 9, 7)
    torch.testing.assert_close(part(x), network(x))


class Own(nn.Module):
    """A transposed convolution by a weight that is not known before the call."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.conv_transpose2d(x, weight, stride=2)


def test_a_weight_that_is_not_a_constant_is_left_alone() -> None:
    x, weight = torch.randn(2, 6, 5, 5), torch.randn(6, 1, 4, 4)
    part = prepared(torch.jit.script(Own()), CPU)
    torch.testing.assert_close(part(x, weight), Own()(x, weight))


def test_a_prepared_part_has_no_parameters_to_look_up() -> None:
    part = prepared(torch.jit.script(layers(1, **UPWARD)), CPU)
    assert "prim::GetAttr" not in operations(part)
