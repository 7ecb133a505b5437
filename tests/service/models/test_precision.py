from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import read_manifest
from service.models import precision
from service.models.golden import check_golden
from service.models.precision import at_precision, check_precision
from service.models.torchscript import load_model
from service.sampling.precision import computes_bfloat16
from tests.service.artefacts import write_diffusion, write_one_shot
from tests.service.engine.conftest import CPU

DDPM = Path(__file__).parents[3] / "weights/ddpm"
instructions = pytest.mark.skipif(not computes_bfloat16(CPU), reason="no bfloat16 instructions: emulation is slow")


class Convolution(nn.Module):
    """A network whose result shows the type that its product was computed in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


def test_bfloat16_rounds_products_and_gives_float32(tmp_path: Path) -> None:
    write_diffusion(tmp_path, denoise=Convolution())
    exact = load_model(tmp_path / "ddpm", CPU)
    rounded = at_precision(load_model(tmp_path / "ddpm", CPU), "bfloat16")
    assert exact.denoise is not None
    assert rounded.denoise is not None
    batch = torch.randn(3, 1, 8, 8), torch.ones(3), {"label": torch.zeros(3, dtype=torch.int64)}
    with torch.inference_mode():
        expected, result = exact.denoise(*batch), rounded.denoise(*batch)
    assert result.dtype == torch.float32
    assert torch.equal(result, result.bfloat16().float())
    assert not torch.equal(result, expected)
    torch.testing.assert_close(result, expected, rtol=0.02, atol=0.02)


def test_float32_and_models_of_one_step_are_unchanged(tmp_path: Path) -> None:
    write_diffusion(tmp_path)
    write_one_shot(tmp_path)
    diffusion, one_shot = load_model(tmp_path / "ddpm", CPU), load_model(tmp_path / "vae", CPU)
    assert at_precision(diffusion, "float32") is diffusion
    assert at_precision(one_shot, "bfloat16") is one_shot


def test_a_model_that_states_its_type_is_unchanged(tmp_path: Path) -> None:
    write_diffusion(tmp_path)
    stated = read_manifest(tmp_path / "ddpm").model_copy(update={"inference_dtype": "float16"})
    model = load_model(tmp_path / "ddpm", CPU, stated)
    assert at_precision(model, "bfloat16") is model


@instructions
def test_the_shipped_diffusion_passes_its_golden_check_in_bfloat16() -> None:
    check_golden(at_precision(load_model(DDPM, CPU), "bfloat16"))


@instructions
def test_in_bfloat16_a_row_is_the_same_wherever_it_is_in_a_batch() -> None:
    model = at_precision(load_model(DDPM, CPU), "bfloat16")
    assert model.denoise is not None
    x, t, label = torch.randn(4, *model.row_shape), torch.full((4,), 0.5), torch.arange(4)
    with torch.inference_mode():
        result = model.denoise(x, t, {"label": label})
        turned = model.denoise(x.flip(0), t, {"label": label.flip(0)})
    assert torch.equal(turned.flip(0), result)


def test_a_device_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    check_precision("float32", CPU)
    check_precision("auto", CPU)
    with pytest.raises(ValueError, match="this cpu has no bfloat16 instructions; allowed: float32 and auto"):
        check_precision("bfloat16", CPU)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_auto_is_bfloat16_where_the_device_has_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_instructions: bool
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: has_instructions)
    write_diffusion(tmp_path)
    model = load_model(tmp_path / "ddpm", CPU)
    assert (at_precision(model, "auto") is not model) == has_instructions
