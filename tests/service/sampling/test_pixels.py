import pytest
import torch

from service.sampling.pixels import to_uint8


def pixel(value: float) -> int:
    return int(to_uint8(torch.full((1, 1, 1, 1), value)))


def test_every_grey_level_survives_the_way_there_and_back() -> None:
    levels = torch.arange(256)
    images = (levels / 127.5 - 1).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(images).flatten(), levels.to(torch.uint8))


@pytest.mark.parametrize(
    ("value", "level"),
    [(-1.0, 0), (1.0, 255), (0.0, 128), (-7.0, 0), (1.001, 255), (float("inf"), 255), (-float("inf"), 0)],
)
def test_ends_middle_and_beyond(value: float, level: int) -> None:
    assert pixel(value) == level


def test_rounding_goes_to_the_nearest_level() -> None:
    assert pixel(10.4 / 127.5 - 1) == 10
    assert pixel(10.6 / 127.5 - 1) == 11


def test_channels_come_last() -> None:
    images = torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5)
    pixels = to_uint8(images)
    assert pixels.shape == (2, 4, 5, 3)
    assert pixels.is_contiguous()
    assert int(pixels[1, 2, 3, 0]) == pixel(float(images[1, 0, 2, 3]))


def test_half_precision_is_rounded_in_full_precision() -> None:
    images = torch.linspace(-1, 1, 256).view(1, 1, 16, 16).bfloat16()
    assert torch.equal(to_uint8(images), to_uint8(images.float()))
