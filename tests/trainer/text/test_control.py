import dataclasses
from pathlib import Path

import pytest
import torch

from service.models.conditions import Control
from tests.service.models.diffusers.served import studio
from tests.trainer.conftest import TEXT, MakeTextConfig
from trainer.data import ImageData, to_unit_range
from trainer.data.strokes import edges
from trainer.export import averaged_parts, compare, export, load, script
from trainer.generate import pictures_of
from trainer.models.text_parts import TextParts, random_text_inputs
from trainer.objectives.base import Position
from trainer.objectives.control import ControlObjective
from trainer.run import checkpoint
from trainer.run.loop import TrainingRun

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def control_run(
    make_text_config: MakeTextConfig, emoji: ImageData, text_run: TrainingRun, tmp_path_factory: pytest.TempPathFactory
) -> TrainingRun:
    """A finished control run over ``text_run``."""
    config = make_text_config(preset="emoji-control", start="runs/text", model={"family": "control", "base": TEXT})
    start = checkpoint.generator(text_run.state_dict())
    run = TrainingRun(config, emoji, tmp_path_factory.mktemp("control"), CPU, start)
    run.fit()
    return run


@pytest.fixture(scope="module")
def parts(control_run: TrainingRun) -> TextParts:
    read = averaged_parts(*checkpoint.load(control_run.folder))
    assert isinstance(read, TextParts)
    return read


@torch.inference_mode()
def test_without_a_drawing_it_is_the_model_it_began_with(text_run: TrainingRun, parts: TextParts) -> None:
    base = averaged_parts(*checkpoint.load(text_run.folder))
    assert isinstance(base, TextParts)
    assert parts.denoise is not None
    assert base.denoise is not None
    x, t, context, mask, hint, scale = random_text_inputs(parts, 5, torch.Generator().manual_seed(0))["denoise"]
    scale[::2] = 0.0
    with_hint, alone = parts.denoise(x, t, context, mask, hint, scale), base.denoise(x, t, context, mask)
    assert torch.equal(with_hint[::2], alone[::2])
    assert not torch.allclose(with_hint[1::2], alone[1::2], atol=1e-6)
    assert torch.equal(*(pictures_of(each, ["red heart"], [1], CPU) for each in (parts, base)))


def test_only_the_control_network_learns(text_run: TrainingRun, control_run: TrainingRun) -> None:
    base, trained = checkpoint.generator(text_run.state_dict()), control_run.objective.generator.state_dict()
    frozen = {
        name.replace("unet.unet.", "unet."): value
        for name, value in trained.items()
        if name.startswith(("encoder.", "unet.unet."))
    }
    assert frozen.keys() == base.keys()
    assert all(torch.equal(value, base[name]) for name, value in frozen.items())
    assert any(bool(value.any()) for name, value in trained.items() if ".to_fine." in name)


def test_torchscript_computes_the_same(parts: TextParts) -> None:
    compare(parts, load(script(parts), parts))


def test_a_drawing_changes_the_picture(parts: TextParts, emoji: ImageData) -> None:
    hints = edges(to_unit_range(emoji.images[:2]))
    one, other = (pictures_of(parts, ["red heart"], [1], CPU, hints=hint[None]) for hint in hints)
    assert not torch.equal(one, other)


def test_a_resumed_run_keeps_the_frozen_network(control_run: TrainingRun) -> None:
    config, state = checkpoint.load(control_run.folder)
    again = TrainingRun(config, control_run.data, control_run.folder, CPU)
    again.load_state_dict(state)
    again._train_on(again._batch_index(), Position(0, 6))
    trained = control_run.objective.generator.state_dict()
    for name, value in again.objective.generator.state_dict().items():
        assert value.equal(trained[name]) or not name.startswith(("encoder.", "unet.unet."))


def test_the_grid_shows_drawings_above_what_becomes_of_them(control_run: TrainingRun, tmp_path: Path) -> None:
    assert (control_run.folder / "samples" / "epoch-002.png").is_file()


def test_other_captions_are_read_with_the_words_of_the_model_it_began_with(
    make_text_config: MakeTextConfig, emoji: ImageData, text_run: TrainingRun, tmp_path: Path
) -> None:
    assert emoji.captions is not None
    backwards = dataclasses.replace(emoji.captions, names=emoji.captions.names[::-1], keywords=((),) * 58)
    other = dataclasses.replace(emoji, captions=backwards)
    config = make_text_config(preset="emoji-control", start="runs/text", model={"family": "control", "base": TEXT})
    start, notes = checkpoint.generator(text_run.state_dict()), text_run.objective.notes()
    run = TrainingRun(config, other, tmp_path, CPU, start, notes=notes)
    assert run.objective.notes() == notes
    run.save()
    resumed = TrainingRun(config, other, tmp_path, CPU)
    assert resumed.objective.notes() != notes
    resumed.load_state_dict(checkpoint.load(tmp_path)[1])
    assert resumed.objective.notes() == notes
    assert isinstance(run.objective, ControlObjective)
    assert isinstance(resumed.objective, ControlObjective)
    label = torch.arange(3)
    for one, same in zip(*(each.captions_of(label, label) for each in (run.objective, resumed.objective)), strict=True):
        assert torch.equal(one, same)


async def test_the_service_takes_its_drawings(control_run: TrainingRun, parts: TextParts, tmp_path: Path) -> None:
    """And without one it computes the U-Net alone."""
    data = control_run.data
    manifest = export(control_run.folder, tmp_path / "sketch", data)
    assert manifest.text is not None
    assert manifest.text.hint_shape == (1, 64, 64)
    assert "-F control_image=@sketch.png" in (tmp_path / "sketch" / "card.md").read_text()
    hints = edges(to_unit_range(data.images[:1]))
    wanted = [pictures_of(parts, ["red heart"], [1], CPU, hints=hint) for hint in (hints, None)]
    async with studio(tmp_path / "sketch", max_bucket=2) as (own, _):
        steps = own.model.plan().steps
        controls = [Control(hints[0]), None]
        rows = [await own.row(1, "red heart", None, 3.0, steps=steps, control=each) for each in controls]
        made = torch.from_numpy(await own.pictures(rows))
    torch.testing.assert_close(made.int(), torch.cat(wanted).int(), atol=1, rtol=0)
