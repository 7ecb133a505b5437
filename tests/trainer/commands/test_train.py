"""Runs on one's own pictures and presets, from their start to their export, by the commands that messages suggest."""

import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from service.contract.manifest import read_history, read_manifest
from trainer.__main__ import main
from trainer.objectives.base import Position
from trainer.objectives.ddpm import DdpmObjective
from trainer.objectives.gan import GanObjective
from trainer.run import checkpoint, folder

SMALL = ["--batch-size", "4", "--width", "8", "--epochs", "1", "--device", "cpu"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of twelve pictures each, in a folder with a name that a shell would take apart."""
    pictures = tmp_path / "my photos"
    for name, level in (("cats", 40), ("dogs", 200)):
        (pictures / name).mkdir(parents=True)
        for number in range(12):
            Image.new("L", (28, 28), level + number).save(pictures / name / f"{number}.png")
    return pictures


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The last line that the command prints when it fails with code 1."""
    assert main([str(argument) for argument in arguments]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"\s*error: ", line)
    return line


def train(preset: str, photos: Path, out: Path, *options: str) -> None:
    assert main(["train", preset, "--dataset", f"folder:{photos}", "--out", str(out), *SMALL, *options]) == 0


def pasted(text: str) -> list[str]:
    """The words after "python -m trainer" of the last command in a message."""
    return shlex.split(text[text.rindex("python -m trainer ") :])[3:]


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, such as that of the model that a message suggests, lead to nothing of the repository."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


# Commands in messages


@pytest.mark.usefixtures("in_empty_folder")
def test_the_export_that_a_finished_run_suggests_works(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("vae", photos, tmp_path / "My runs")
    assert main(pasted(capsys.readouterr().out)) == 0
    assert read_manifest(Path("weights/my-runs")).class_names == ("cats", "dogs")


@pytest.mark.usefixtures("in_empty_folder")
def test_a_run_that_was_stopped_goes_on_or_is_exported_by_what_is_suggested(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "My runs"
    train("gan", photos, out)
    config, state = checkpoint.load(out)
    longer = config.model_copy(update={"epochs": 2})
    checkpoint.save(out, longer, {name: value for name, value in state.items() if name not in ("config", "format")})
    line = error_of(capsys, "export", out, "weights/half")
    assert "5 of 10 steps are done" in line
    assert main(pasted(line)) == 0
    assert read_manifest(Path("weights/my-runs")).made_by.epochs == 1
    assert main(pasted(line[: line.index("Or export it")])) == 0
    assert checkpoint.load(out)[1]["step"] == 10


def out_of_memory(*_: object) -> dict[str, Tensor]:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")


def diverges(*_: object) -> dict[str, Tensor]:
    return {"loss": torch.tensor(float("nan"))}


@pytest.mark.parametrize(
    ("preset", "objective", "step", "error", "changed"),
    [
        ("ddpm", DdpmObjective, out_of_memory, "out of memory: choose --accumulate 2", ("accumulate", 2)),
        ("gan", GanObjective, out_of_memory, "out of memory: choose a --batch-size below 4", ("batch_size", 2)),
        ("gan", GanObjective, diverges, "try a --learning-rate below 0.0004", ("learning_rate", 2e-4)),
    ],
)
def test_a_run_that_fails_suggests_one_that_may_not(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    preset: str,
    objective: type,
    step: Callable[..., dict[str, Tensor]],
    error: str,
    changed: tuple[str, object],
) -> None:
    arguments = ["train", preset, "--dataset", f"folder:{photos}", "--out", str(tmp_path / "run"), *SMALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "train_step", step)
        assert main(arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert error in line
    suggested = pasted(line)
    name, value = changed
    assert f"--{name.replace('_', '-')} {value}" in " ".join(suggested)
    assert main(suggested) == 0
    config, _ = checkpoint.load(tmp_path / "run")
    assert (config.model.model_dump()["width"], config.epochs) == (8, 1)


def test_guidance_needs_images_of_several_classes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cats, run = photos / "cats", tmp_path / "run"
    train("ddpm", cats, run)
    options = ["--dataset", f"folder:{cats}", "--from", str(run), "--out", str(tmp_path / "guided"), "--device", "cpu"]
    line = error_of(capsys, "train", "ddpm-guided", *options)
    assert line.endswith("ddpm-guided needs images of several classes: guidance leads from all of them to one")


# What exists is kept


def test_a_run_and_a_model_are_replaced_when_that_is_asked_for(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = tmp_path / "run", tmp_path / "weights" / "mine"
    train("gan", photos, run)
    assert main(["export", str(run), str(model)]) == 0
    before = checkpoint.load(run)[1]["fingerprint"], read_manifest(model)
    assert "--overwrite to delete it" in error_of(capsys, "train", "gan", "--out", run)
    train("gan", photos, run, "--overwrite", "--seed", "7")
    assert checkpoint.load(run)[0].seed == 7
    assert "already contains a model" in error_of(capsys, "export", run, model)
    assert read_manifest(model) == before[1]
    capsys.readouterr()
    assert main(["export", str(run), str(model), "--overwrite"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert read_history(model) == [before[1]]
    assert "contains a model: choose another --out" in error_of(capsys, "train", "gan", "--out", model)


def test_replacing_a_model_that_git_tracks_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "weights" / "mine"
    model.mkdir(parents=True)
    (model / "manifest.json").write_text("{}")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert main(["export", str(tmp_path / "no-run"), str(model), "--overwrite"]) == 1
    assert f"warning: git tracks {model}: this replaces a model" in capsys.readouterr().err


def test_a_folder_in_which_a_run_is_going_is_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "gan", "--dataset", f"folder:{photos}", "--out", tmp_path / "run", *SMALL]
    with folder.locked(tmp_path / "run"):
        assert "is in use by another training process" in error_of(capsys, *arguments)
        assert "is in use by another training process" in error_of(capsys, *arguments, "--overwrite")


def test_an_evaluator_is_replaced_when_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evaluator.json").write_text("{}")
    arguments = ["evaluator", "--data-dir", tmp_path / "none", "--out", tmp_path]
    assert "already contains an evaluator" in error_of(capsys, *arguments)
    assert "no Fashion-MNIST" in error_of(capsys, *arguments, "--overwrite")
    assert (tmp_path / "evaluator.json").read_text() == "{}"


# Pictures that changed


@pytest.mark.parametrize(("preset", "needs"), [("gan", False), ("vae", True)])
def test_a_picture_more_hinders_an_export_only_where_pictures_are_encoded(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], preset: str, needs: bool
) -> None:
    run, model = tmp_path / "run", tmp_path / "weights" / "mine"
    train(preset, photos, run)
    Image.new("L", (28, 28), 99).save(photos / "cats" / "new.png")
    if needs:
        line = error_of(capsys, "export", run, model)
        assert "trained on other data: images: 22 then, 23 now" in line
        assert "--changed-data" in line
    assert main(["export", str(run), str(model), *(["--changed-data"] if needs else [])]) == 0
    assert read_manifest(model).made_from.images == 22


def test_swapped_classes_are_noticed_and_a_run_goes_on_with_them_when_asked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train("gan", photos, run)
    (photos / "cats").rename(photos / "other")
    (photos / "dogs").rename(photos / "cats")
    (photos / "other").rename(photos / "dogs")
    again = ["train", "gan", "--out", str(run), "--resume", "--epochs", "2", "--device", "cpu"]
    assert main(again) == 1
    assert "the same number of images, but different images or labels" in capsys.readouterr().err
    assert main([*again, "--changed-data"]) == 0
    assert checkpoint.load(run)[1]["step"] == 10
    assert "--changed-data needs --resume" in error_of(capsys, "train", "gan", "--changed-data")


def test_a_folder_that_moved_is_named_anew(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere"
    train("vae", photos, run)
    photos.rename(moved)
    assert f"{photos} is not a readable folder" in error_of(capsys, "export", run, tmp_path / "mine")
    assert main(["export", str(run), str(tmp_path / "mine"), "--data-dir", str(moved)]) == 0
    assert str(tmp_path) not in (tmp_path / "mine" / "card.md").read_text()


# Length


def test_a_finished_run_is_extended(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train("gan", photos, run)
    printed = capsys.readouterr()
    assert "plan: 5 steps in 1 epoch of 5, in fp32" in printed.out
    assert "warning: 5 steps are far too few" in printed.err
    assert main(["train", "gan", "--out", str(run), "--resume", "--steps", "12", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "extended from 5 to 12 steps" in printed.out
    config, state = checkpoint.load(run)
    assert (state["step"], config.steps) == (12, 12)
    assert [(each.at, each.planned) for each in config.extended] == [(5, 5)]
    shorter = error_of(capsys, "train", "gan", "--out", run, "--resume", "--epochs", "2")
    assert "has already done 12 steps, not 10" in shorter
    assert pasted(shorter)[0] == "export"


def test_an_interrupted_run_is_shortened(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, step = tmp_path / "run", GanObjective.train_step

    def interrupted(objective: GanObjective, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        if at.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(objective, images, label, at)

    with monkeypatch.context() as patch:
        patch.setattr(GanObjective, "train_step", interrupted)
        options = ["--dataset", f"folder:{photos}", "--out", str(run), *SMALL]
        assert main(["train", "gan", *options]) == 128 + signal.SIGTERM
    assert main(["train", "gan", "--out", str(run), "--resume", "--steps", "4", "--device", "cpu"]) == 0
    assert "shortened from 5 to 4 steps" in capsys.readouterr().out
    config, state = checkpoint.load(run)
    assert (state["step"], config.steps) == (4, 4)
    assert [(each.at, each.planned) for each in config.extended] == [(3, 5)]


# Presets of one's own


PRESET = """\
dataset = "fashion-mnist"
epochs = 1
batch_size = 4
seed = 5
precision = "fp32"
label_dropout = 0.1
ema_decay = 0.9
grid_every = 1
[optimizer]
learning_rate = 1e-3
betas = [0.0, 0.99]
weight_decay = 0.0
warmup = 0.0
decay = true
[model]
family = "gan"
network = "residual"
width = 8
latent = 4
loss = "hinge"
"""


def test_a_preset_of_ones_own(photos: Path, tmp_path: Path) -> None:
    preset, run = tmp_path / "my net.toml", tmp_path / "run"
    preset.write_text(PRESET)
    arguments = ["train", str(preset), "--dataset", f"folder:{photos}", "--out", str(run), "--device", "cpu"]
    assert main([*arguments, "--learning-rate", "2e-3"]) == 0
    config, _ = checkpoint.load(run)
    assert (config.preset, config.seed, config.optimizer.learning_rate) == ("my net.toml", 5, 2e-3)
    assert main(["train", str(preset), "--out", str(run), "--resume", "--device", "cpu"]) == 0
    assert main(["export", str(run), str(tmp_path / "mine")]) == 0
    command = read_manifest(tmp_path / "mine").made_by.command
    assert command.startswith("python -m trainer train 'my net.toml' --seed 5 --precision fp32 --dataset folder:PATH")
    assert str(tmp_path) not in (tmp_path / "mine" / "card.md").read_text()


@pytest.mark.parametrize(
    ("text", "arguments", "complaint"),
    [
        (None, [], "mine.toml: No such file"),
        ("epochs =", [], "mine.toml is not valid TOML"),
        (PRESET.replace("latent = 4", 'latent = "many"'), [], "mine.toml, model.gan.latent: .* valid integer"),
        (PRESET.replace("epochs", "epoch"), [], "mine.toml, epochs: Field required"),
        ("model = 3", [], "mine.toml, dataset: Field required"),
        (PRESET, ["--epochs", 0], "--epochs: .* greater than 0"),
    ],
)
def test_what_is_wrong_with_it_is_reported_by_its_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, arguments: list[object], complaint: str
) -> None:
    if text is not None:
        (tmp_path / "mine.toml").write_text(text)
    line = error_of(capsys, "train", tmp_path / "mine.toml", "--out", tmp_path / "run", *arguments)
    assert re.search(complaint, line)
    assert not (tmp_path / "run").exists()


def test_a_width_that_a_model_does_not_have_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "few-step", "--from", "weights/ddpm", "--width", 8, "--out", tmp_path / "run"]
    assert "--width: the preset few-step has no such setting" in error_of(capsys, *arguments)
