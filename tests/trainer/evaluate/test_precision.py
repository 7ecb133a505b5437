from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import MakeRun
from trainer.evaluate import precision
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.pictures import draw, make_sampler
from trainer.evaluate.precision import rounded
from trainer.evaluate.subject import Subject

CPU = torch.device("cpu")


def subject(make_run: MakeRun, tmp_path: Path, family: str) -> Subject:
    """A run whose network does something."""
    run = make_run(family, tmp_path)
    for weight in run.ema.module.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return Subject(family, "fashion-mnist", (), run.objective.parts(run.ema.module))


@pytest.mark.parametrize("family", ["ddpm", "ldm"])
def test_a_model_in_bfloat16_draws_slightly_different_images_and_says_so(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: True)  # emulated, where it is not
    exact = subject(make_run, tmp_path, family)
    fast = rounded(exact, CPU)
    sampler = make_sampler(fast.parts, "ddim", 3)
    assert sampler.name == "ddim 3 steps, bfloat16"
    images, others = (draw(each.parts, torch.arange(4), sampler, device=CPU) for each in (exact, fast))
    assert not torch.equal(images, others)
    assert (images.int() - others.int()).abs().float().mean() < 10


def test_models_of_one_step_and_devices_without_instructions_are_refused(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EvaluationError, match="gan generates in one step, which is always float32"):
        rounded(subject(make_run, tmp_path / "gan", "gan"), CPU)
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    with pytest.raises(EvaluationError, match="--precision bfloat16: this cpu has no instructions for it"):
        rounded(subject(make_run, tmp_path / "ddpm", "ddpm"), CPU)
