from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.contract.manifest import Defaults
from service.models.golden import check_golden
from service.models.torchscript import load_model
from tests.trainer.conftest import TEXT, MakeTextConfig
from trainer.data import ImageData, to_unit_range
from trainer.export import averaged_parts, compare, export, load, script
from trainer.generate import default_plan, pictures_of
from trainer.models.text_parts import TextParts
from trainer.objectives.base import Position
from trainer.objectives.few_step_text import FewStepTextObjective
from trainer.run import checkpoint
from trainer.run.loop import TrainingRun

CPU = torch.device("cpu")
FEW = {
    "family": "few-step-text",
    "base": TEXT | {"solver": "consistency", "steps": 4, "guidance_scale": 1.0},
    "guidance": 3.0,
    "teacher_steps": 20,
    "huber": 0.1,
}


@pytest.fixture(scope="module")
def few_run(
    make_text_config: MakeTextConfig, emoji: ImageData, text_run: TrainingRun, tmp_path_factory: pytest.TempPathFactory
) -> TrainingRun:
    config = make_text_config(preset="emoji-few-step", start="runs/text", label_dropout=0.0, model=FEW)
    start = checkpoint.generator(text_run.state_dict())
    run = TrainingRun(config, emoji, tmp_path_factory.mktemp("few"), CPU, start)
    run.fit()
    return run


@pytest.fixture
def objective(few_run: TrainingRun) -> FewStepTextObjective:
    assert isinstance(few_run.objective, FewStepTextObjective)
    return few_run.objective


def test_it_draws_in_four_steps_without_guidance(few_run: TrainingRun) -> None:
    parts = averaged_parts(*checkpoint.load(few_run.folder))
    assert isinstance(parts, TextParts)
    assert parts.diffusion is not None
    assert (default_plan(parts).steps, parts.diffusion.defaults.guidance_scale) == (4, 1.0)
    compare(parts, load(script(parts), parts))
    assert pictures_of(parts, ["red heart"], [1], CPU).shape == (1, 64, 64, 3)


def test_it_is_exported_with_its_sampler(few_run: TrainingRun, tmp_path: Path) -> None:
    manifest = export(few_run.folder, tmp_path / "quick", None)
    assert manifest.defaults == Defaults(steps=4, solver="consistency", guidance_scale=1.0)
    check_golden(load_model(tmp_path / "quick", CPU))


def test_only_the_students_unet_learns(few_run: TrainingRun, text_run: TrainingRun) -> None:
    base = checkpoint.generator(text_run.state_dict())
    networks = few_run.objective.networks.state_dict()
    assert all(networks[f"text.{name}"].equal(value) for name, value in base.items() if name.startswith("encoder."))
    assert not all(networks[f"text.{name}"].equal(value) for name, value in base.items() if name.startswith("unet."))
    teacher = {name.removeprefix("unet."): value for name, value in base.items() if name.startswith("unet.")}
    assert all(networks[f"teacher.{name}"].equal(value) for name, value in teacher.items())


def contexts(objective: FewStepTextObjective, label: Tensor) -> tuple[Tensor, Tensor]:
    tokens, mask = objective.captions_of(label, torch.zeros_like(label))
    return objective.network.encoder(tokens, mask), mask


@torch.no_grad()
def test_near_the_picture_the_target_is_the_guided_teacher(objective: FewStepTextObjective, emoji: ImageData) -> None:
    x, label, step = to_unit_range(emoji.images[:3]), torch.arange(3), torch.tensor([0, 20, 49])
    asked, empty = contexts(objective, label), contexts(objective, torch.full_like(label, emoji.null_label))
    target = objective._target(x, step, asked, empty)
    t = (step + 1) / 1000
    conditional, plain = objective.teacher(x, t, *asked), objective.teacher(x, t, *empty)
    guided = (plain + 3.0 * (conditional - plain)).clamp(-1, 1)
    torch.testing.assert_close(target, guided)


@torch.no_grad()
def test_elsewhere_it_is_the_students_own_prediction_further_down(
    objective: FewStepTextObjective, emoji: ImageData
) -> None:
    """Of a teacher that is right, a step down from alpha x_start + sigma noise has the same picture and noise."""
    picture, label, step = to_unit_range(emoji.images[:2]), torch.arange(2), torch.tensor([99, 499])
    asked, noise = contexts(objective, label), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    sigma = ((step + 1) / 1000)[:, None, None, None]
    x = (1 - sigma) * picture + sigma * noise

    class Right(torch.nn.Module):
        def forward(self, *_: Tensor) -> Tensor:
            return picture

    teacher = objective.teacher
    try:
        objective.teacher = Right()  # type: ignore[assignment]
        target = objective._target(x, step, asked, asked)
    finally:
        objective.teacher = teacher
    lower = sigma - 50 / 1000
    wanted = objective.student((1 - lower) * picture + lower * noise, lower.flatten(), *asked).clamp(-1, 1)
    torch.testing.assert_close(target, wanted, rtol=1e-4, atol=1e-4)


def test_a_step_is_taken_again_from_a_checkpoint(few_run: TrainingRun) -> None:
    config, state = checkpoint.load(few_run.folder)
    first, again = (TrainingRun(config, few_run.data, few_run.folder, CPU) for _ in range(2))
    losses = []
    for run in (first, again):
        run.load_state_dict(state)
        losses.append(run._train_on(run._batch_index(), Position(0, 6))["consistency"])
    assert torch.equal(*losses)
