from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import MakeTextConfig
from trainer.data import ImageData
from trainer.data.captions import VARIANTS
from trainer.generate import NotFinite, pictures_of, text_cells
from trainer.models.text_parts import TextParts
from trainer.objectives.base import Position
from trainer.objectives.text import TextObjective
from trainer.run import checkpoint
from trainer.run.loop import TrainingRun
from trainer.run.schedule import epoch_order

CPU = torch.device("cpu")


def average_parts(run: TrainingRun) -> TextParts:
    parts = run.objective.parts(run.ema.module)
    assert isinstance(parts, TextParts)
    return parts


def test_a_run_reports_its_loss_and_shows_the_fixed_prompts(text_run: TrainingRun) -> None:
    assert text_run.state.losses.keys() == {"x_start_mse"}
    assert (text_run.folder / "samples" / "epoch-002.png").is_file()
    cells, columns = text_cells(average_parts(text_run), CPU, text_run.data)
    assert cells.shape[1:] == (3, 64, 64)
    assert len(cells) % columns == 0


def test_captions_of_a_batch_are_those_of_its_pictures(text_objective: TextObjective, emoji: ImageData) -> None:
    assert emoji.captions is not None
    tokenizer = text_objective.tokenizer
    assert tokenizer is not None
    row = emoji.captions.names.index("woman cook: dark skin tone")
    tokens, mask = text_objective.captions_of(torch.tensor([row, emoji.null_label]), torch.tensor([0, VARIANTS - 1]))
    words = [tokenizer.id_to_token(int(token)) for token in tokens[0][mask[0]]]
    assert words == ["[START]", "woman", "cook", "dark", "skin", "tone"]
    assert mask[1].sum() == 1, "a dropped caption is the empty one"


def test_an_epoch_draws_pictures_by_concept(emoji: ImageData) -> None:
    captions = emoji.captions
    assert captions is not None
    order = epoch_order(3, 0, len(captions), captions)
    assert order.shape == (len(captions),)
    assert torch.equal(order, epoch_order(3, 0, len(captions), captions))
    assert not torch.equal(order, epoch_order(3, 1, len(captions), captions))


def test_both_networks_learn(make_text_config: MakeTextConfig, emoji: ImageData, tmp_path: Path) -> None:
    run = TrainingRun(make_text_config(epochs=40), emoji, tmp_path, CPU)
    before = {name: value.clone() for name, value in run.objective.generator.state_dict().items()}
    losses = [float(run._train_on(run._batch_index(), Position(0, 8))["x_start_mse"])]
    for step in range(30):
        run._set_learning_rate(0.3)
        run.state.step = step
        losses.append(float(run._train_on(run._batch_index(), Position(step, 120))["x_start_mse"]))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    moved = {
        name.split(".")[0]
        for name, value in run.objective.generator.state_dict().items()
        if not value.equal(before[name])
    }
    assert moved == {"encoder", "unet"}


def test_a_resumed_run_takes_the_same_steps(
    make_text_config: MakeTextConfig, emoji: ImageData, text_run: TrainingRun, tmp_path: Path
) -> None:
    first = TrainingRun(make_text_config(), emoji, tmp_path, CPU)
    for _ in range(2):
        first._train_on(first._batch_index(), Position(first.state.step, 6))
        first.state.step += 1
    again = TrainingRun(make_text_config(), emoji, tmp_path, CPU)
    first.save()
    _, state = checkpoint.load(tmp_path)
    again.load_state_dict(state)
    for run in (first, again):
        run._train_on(run._batch_index(), Position(run.state.step, 6))
    for name, value in first.objective.networks.state_dict().items():
        assert value.equal(again.objective.networks.state_dict()[name]), name


def test_a_picture_depends_on_its_prompt_and_seed_alone(text_run: TrainingRun) -> None:
    parts = average_parts(text_run)
    together = pictures_of(parts, ["red heart", "pizza", "red heart"], [1, 1, 2], CPU)
    alone = pictures_of(parts, ["red heart"], [1], CPU)
    assert together.shape == (3, 64, 64, 3)
    torch.testing.assert_close(together[:1].int(), alone.int(), atol=1, rtol=0)
    assert not torch.equal(together[0], together[2])


def test_unguided_pictures_of_unknown_words_are_those_of_no_caption(text_run: TrainingRun) -> None:
    parts = average_parts(text_run)
    unknown, empty = (pictures_of(parts, [prompt], [1], CPU) for prompt in ("zyzzyva", ""))
    assert torch.equal(unknown, empty)


def test_a_broken_network_is_refused(text_run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = average_parts(text_run)
    monkeypatch.setattr(parts.decode, "forward", lambda z: z * torch.nan)
    with pytest.raises(NotFinite):
        pictures_of(parts, ["red heart"], [1], CPU)
