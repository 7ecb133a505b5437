from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import FAMILIES, MakeRun
from trainer.data import choose
from trainer.evaluate import pictures
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.pictures import NO_SAMPLER, draw, labels_like, make_sampler
from trainer.generate import generate

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_picture_i_is_that_of_its_seed_whatever_the_batch(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(pictures, "BATCH_SIZE", 4)
    run = make_run(family, tmp_path)
    parts = run.objective.parts(run.ema.module)
    sampler = make_sampler(parts, "ddpm", 2, 1.0)
    labels = torch.arange(6)
    drawn = draw(parts, labels, sampler, first_seed=40, device=CPU)
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (6, 1, 28, 28)
    for row in (0, 5):
        alone = generate(parts, labels[row : row + 1], [40 + row], sampler.plan).permute(0, 3, 1, 2)
        assert (drawn[row].int() - alone[0].int()).abs().max() <= 1


def test_guidance_reaches_the_sampler(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("ddpm", tmp_path)
    for weight in run.ema.module.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    parts = run.objective.parts(run.ema.module)
    plain, guided = (
        draw(parts, torch.arange(4), make_sampler(parts, "ddim", 2, scale), device=CPU) for scale in (1.0, 4.0)
    )
    assert not torch.equal(plain, guided)


def test_a_sampler_says_what_it_does(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("ddpm", tmp_path)
    parts = run.objective.parts(run.ema.module)
    assert make_sampler(parts, "dpmpp_2m", 20, 1.0).name == "dpmpp_2m 20 steps"
    assert make_sampler(parts, "ddim", 1, 1.5).name == "ddim 1 step, guidance 1.5"
    with pytest.raises(EvaluationError, match="steps 1001 is out of range"):
        make_sampler(parts, "ddim", 1001, 1.0)


def test_a_model_without_steps_has_no_sampler(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("gan", tmp_path)
    assert make_sampler(run.objective.parts(run.ema.module), "ddim", 3, 1.0) is NO_SAMPLER


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_labels_keep_the_proportions(count: int) -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    found = labels_like(labels[torch.randperm(100)], count)
    assert torch.bincount(found).tolist() == [count // 2, 3 * count // 10, count // 5]
    assert found.tolist() != sorted(found.tolist())
    assert torch.equal(found, labels_like(labels, count))


def test_the_choice_is_fixed_and_without_repetition() -> None:
    assert torch.equal(choose(5, 100), choose(100, 100)[:5])
    assert sorted(choose(100, 100).tolist()) == list(range(100))
