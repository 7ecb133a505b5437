import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from service.contract.manifest import read_manifest
from service.contract.signature import SignatureError, Trust
from tests.trainer.conftest import FileSizeLimit, MakeRun
from trainer import data
from trainer.__main__ import main
from trainer.config import presets
from trainer.data import load_fashion_mnist
from trainer.run import checkpoint
from trainer.run.loop import TrainingRun

ROOT = Path(__file__).parents[3]


@pytest.fixture
def vae_run(make_run: MakeRun, tmp_path: Path) -> Path:
    """A run that was saved before its first step."""
    folder = tmp_path / "run"
    folder.mkdir()
    make_run("vae", folder).save()
    return folder


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that the command prints when it fails with code 1."""
    assert main([str(argument) for argument in arguments]) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


def test_train_then_export(small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, target = tmp_path / "run", tmp_path / "weights" / "small"
    options = ["--data-dir", small_folder, "--epochs", "1", "--batch-size", "32", "--device", "cpu", "--out", run]
    assert main(["train", "vae", *map(str, options)]) == 0
    assert f"data: 64 training images from {small_folder}" in capsys.readouterr().out
    exporting = ["export", str(run), str(target), "--data-dir", str(small_folder)]
    assert main(exporting) == 0
    manifest = read_manifest(target)
    assert manifest.artifact.file in capsys.readouterr().out
    assert (
        manifest.made_by.command == "python -m trainer train vae --seed 0 --precision fp32 --epochs 1 --batch-size 32"
    )
    pytest.importorskip("cryptography", reason="signatures need the extra `sign`")
    from tests.service.contract.signing import pair, write_secret

    assert "key: No such file" in error_of(capsys, *exporting, "--overwrite", "--sign", tmp_path / "key")
    write_secret(tmp_path / "key", pair(1).secret)
    assert main([*exporting, "--overwrite", "--sign", str(tmp_path / "key")]) == 0
    assert "manifest.json.minisig: signed" in capsys.readouterr().out
    assert read_manifest(target, Trust(pair(1).public, required=True)) == manifest
    assert main([*exporting, "--overwrite"]) == 0
    with pytest.raises(SignatureError, match="not signed"):
        read_manifest(target, Trust(pair(1).public, required=True))


def test_what_learns_without_classes_has_none(small_folder: Path, tmp_path: Path) -> None:
    run, target = tmp_path / "run", tmp_path / "weights" / "plain"
    options = ["--data-dir", small_folder, "--epochs", "1", "--batch-size", "32", "--device", "cpu", "--out", run]
    assert main(["train", "dcgan", *map(str, options)]) == 0
    assert main(["export", str(run), str(target), "--data-dir", str(small_folder)]) == 0
    manifest = read_manifest(target)
    assert (manifest.class_names, manifest.null_label) == ((), 0)
    card = (target / "card.md").read_text()
    assert "There are no classes" in card
    assert "conditioned" not in card


def test_an_existing_run_is_not_overwritten(vae_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (vae_run / checkpoint.FILE_NAME).read_bytes()
    assert "--resume" in error_of(capsys, "train", "vae", "--out", vae_run)
    assert (vae_run / checkpoint.FILE_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "gan", "--resume"], "started with the preset vae, not gan"),
        (["train", "autoencoder", "--resume"], "started with the preset vae, not autoencoder"),
        (["train", "vae", "--resume", "--from", "runs/other"], "--from runs/other: .* started with None"),
        (["train", "vae", "--resume", "--batch-size", "8"], "--batch-size 8: .* started with 16"),
    ],
)
def test_a_resumed_run_keeps_its_config(
    vae_run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert re.search(complaint, error_of(capsys, *arguments, "--out", vae_run))


def test_nothing_to_resume_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run was saved there" in error_of(capsys, "train", "vae", "--resume", "--out", tmp_path)


def test_missing_data_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "train", "vae", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert f"no Fashion-MNIST in {tmp_path}" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "value"), [("--epochs", 0), ("--seed", -1), ("--batch-size", 0)])
def test_an_impossible_value_is_reported_by_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: int
) -> None:
    assert option in error_of(capsys, "train", "vae", option, value, "--out", tmp_path / "run")


def test_a_batch_larger_than_the_data_is_reported(
    sample_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data-dir", sample_folder, "--batch-size", 3000, "--device", "cpu", "--out", tmp_path / "run"]
    assert "lower --batch-size" in error_of(capsys, "train", "vae", *options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_reported(sample_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data-dir", sample_folder, "--device", "cuda", "--out", tmp_path / "run"]
    assert "no CUDA device" in error_of(capsys, "train", "vae", *options)


def test_an_unfinished_run_is_not_exported(
    vae_run: Path, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, "export", vae_run, tmp_path / "weights" / "vae", "--data-dir", small_folder)
    assert f"0 of 8 steps are done. Resume it with: python -m trainer train vae --out {vae_run} --resume" in line


# Runs that begin with another's network


@pytest.fixture
def begun_runs(make_run: MakeRun, tmp_path: Path) -> Path:
    """A folder with a run of an autoencoder and one of a ddpm, both at their end."""
    for name in ("autoencoder", "ddpm"):
        (tmp_path / name).mkdir()
        run = make_run(name, tmp_path / name)
        run.state.step = run.plan.total
        run.save()
    return tmp_path


@pytest.mark.parametrize(
    ("preset", "start", "complaint"),
    [
        ("ldm", None, "--from: ldm needs a run of family autoencoder to start from"),
        ("few-step", None, "--from: few-step needs a run of family ddpm to start from"),
        ("ldm", "ddpm", "--from: ldm needs a run of family autoencoder to start from"),
        ("few-step", "autoencoder", "--from: few-step needs a run of family ddpm to start from"),
        ("vae", "autoencoder", "--from: vae does not start from another run"),
        ("ldm", "nowhere", "no run was saved there"),
    ],
)
def test_what_a_run_begins_with_is_checked(
    begun_runs: Path, capsys: pytest.CaptureFixture[str], preset: str, start: str | None, complaint: str
) -> None:
    out = begun_runs / "new"
    options = [] if start is None else ["--from", begun_runs / start]
    assert complaint in error_of(capsys, "train", preset, "--out", out, *options)
    assert not out.exists()


@pytest.mark.parametrize(("preset", "start"), [("ldm", "autoencoder"), ("few-step", "ddpm")])
def test_a_run_that_begins_with_another(
    begun_runs: Path, small_folder: Path, capsys: pytest.CaptureFixture[str], preset: str, start: str
) -> None:
    """Trained, refused with another start, and resumed without one: it is in the checkpoint."""
    out, begun = begun_runs / "new", begun_runs / start
    options = ["--data-dir", str(small_folder), "--device", "cpu", "--out", str(out)]
    fresh = ["--from", str(begun), "--epochs", "1", "--batch-size", "32", "--precision", "fp32"]
    assert main(["train", preset, *fresh, *options]) == 0
    config, state = checkpoint.load(out)
    assert (config.preset, config.start, state["step"]) == (preset, begun.as_posix(), 2)
    assert main(["train", preset, "--resume", *options]) == 0
    capsys.readouterr()
    line = error_of(capsys, "train", preset, "--resume", "--from", begun_runs / "nowhere", *options)
    assert f"--from {begun_runs / 'nowhere'}: the run in {out} was started with {begun}" in line


def test_a_run_on_other_pictures_is_no_beginning(begun_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(4):
        path = begun_runs / "photos" / "all" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), index).save(path)
    options = ["--dataset", f"folder:{begun_runs / 'photos'}", "--image-size", 32, "--batch-size", 2]
    begun = ["--from", begun_runs / "autoencoder", "--out", begun_runs / "new"]
    assert main(["train", "ldm", *map(str, [*begun, *options])]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"error: --from: .* trained on 64 images of fashion-mnist .*; the data set has 4 images", last)


# Help


def test_help_names_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = "".join(capsys.readouterr().out.split())  # its lines are broken anywhere, after hyphens too
    assert f"oneof{','.join(presets())}" in text
    assert "--fromFOLDER" in text


def test_an_unknown_preset_is_reported_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "gans"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert "'gans'" in line
    assert all(name in line for name in presets())


def test_a_signal_before_the_first_step_is_no_traceback(
    sample_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        # Background jobs, and some CI, start their processes with SIGINT ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, before)

    monkeypatch.setattr(data, "load", interrupted)
    assert main(["train", "vae", "--data-dir", str(sample_folder), "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_full_disk_is_reported_in_a_line(
    small_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file_size_limit: FileSizeLimit,
) -> None:
    save = checkpoint.save

    def on_a_full_disk(*arguments: Any) -> None:
        with file_size_limit(10_000):
            save(*arguments)

    monkeypatch.setattr(checkpoint, "save", on_a_full_disk)
    # The grid comes after the first checkpoint: TensorBoard's own file is small until then.
    options = ["--epochs", 2, "--grid-every", 2, "--batch-size", 32, "--device", "cpu", "--out", tmp_path]
    assert main(["train", "vae", "--data-dir", str(small_folder), *map(str, options)]) == 1
    bar, line = capsys.readouterr().err.rsplit("error: ", 1)
    assert line.startswith(f"{tmp_path / checkpoint.FILE_NAME} cannot be written")
    assert line.count("\n") == 1
    assert "Traceback" not in bar
    assert not (tmp_path / checkpoint.FILE_NAME).exists()


@pytest.mark.parametrize(
    "command", ["train", "export", "evaluator", "text-evaluator", "evaluate", "compare", "samples"]
)
def test_the_help_of_every_command_ends_with_examples_of_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    _, _, examples = capsys.readouterr().out.partition("\nexamples:\n")
    assert f"python -m trainer {command} " in examples


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    assert "python -m trainer train ddpm --out runs/long --resume" in capsys.readouterr().out


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_code_and_a_checkpoint_that_goes_on(
    small_folder: Path, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "trainer", "train", "vae", "--epochs", "1000", "--batch-size", "32"]
    command += ["--precision", "fp32", "--device", "cpu", "--data-dir", str(small_folder), "--out", str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / checkpoint.FILE_NAME).exists():  # written at the end of the first epoch
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    wanted = f"stopped by {signum.name}; resume with python -m trainer train vae --out {tmp_path} --resume --device cpu"
    assert wanted in errors

    config, state = checkpoint.load(tmp_path)
    run = TrainingRun(config, load_fashion_mnist(small_folder), tmp_path, torch.device("cpu"))
    run.load_state_dict(state)
    assert 1 <= run.epoch < 1000
