import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainer.evaluate import metrics
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.inception import fid


class Rows(nn.Module):
    """Stands in for the Inception file: the brightness of eight rows of the middle column, in each channel."""

    def forward(self, pictures: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        return pictures[:, :, 8:16, 14].float().flatten(1)


@pytest.fixture
def inception(tmp_path: Path) -> Path:
    path = tmp_path / "inception.pt"
    torch.jit.save(torch.jit.script(Rows()), path)
    return path


def pictures(seed: int) -> Tensor:
    return torch.randint(256, (120, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_it_is_torchmetrics_figure_and_so_is_our_distance(inception: Path) -> None:
    pytest.importorskip("torchmetrics")
    real, generated = pictures(0), pictures(1) // 2
    first, second = (
        metrics.moments(Rows()(images.expand(-1, 3, -1, -1), return_features=True)) for images in (real, generated)
    )
    assert fid(real, generated, inception) == pytest.approx(metrics.frechet_distance(first, second), rel=1e-6)


def test_another_file_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    (tmp_path / "other.pt").write_bytes(b"no network")
    with pytest.raises(EvaluationError, match=r"--inception .*other\.pt is not a TorchScript file"):
        fid(pictures(0), pictures(1), tmp_path / "other.pt")
    with pytest.raises(EvaluationError, match=r"--inception .*none\.pt is not a TorchScript file"):
        fid(pictures(0), pictures(1), tmp_path / "none.pt")


def test_what_to_install_is_reported(inception: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(EvaluationError, match=r"pip install 'genserve\[fid\]'"):
        fid(pictures(0), pictures(1), inception)
