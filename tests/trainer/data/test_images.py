import pytest
import torch

from trainer.data import to_unit_range


def test_bytes_become_the_unit_range() -> None:
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    assert to_unit_range(levels).flatten().tolist() == pytest.approx([-1.0, -0.6, 1.0], abs=1e-6)
    assert levels.flatten().tolist() == [0, 51, 255]
