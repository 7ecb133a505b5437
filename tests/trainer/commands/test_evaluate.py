import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from service.contract.manifest import read_manifest
from tests.trainer.commands.test_cli import error_of
from tests.trainer.conftest import MakeConfig, MakeRun
from tests.trainer.evaluate.conftest import SHIPPED
from tests.trainer.sample import first_of_sample
from trainer.__main__ import main
from trainer.data.folder import load_folder
from trainer.evaluate import classifier, curves
from trainer.evaluate.compare import BEGIN, END
from trainer.evaluate.evaluator import FACTS_FILE
from trainer.evaluate.measurement import read_json
from trainer.export import export
from trainer.run.loop import TrainingRun


@pytest.fixture(scope="module")
def trained(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs/vae, runs/ddpm, runs/autoencoder and weights/vae."""
    folder = tmp_path_factory.mktemp("trained")
    for family in ("vae", "ddpm", "autoencoder"):
        run = make_run(family, folder / "runs" / family, epochs=1)
        run.fit()
    export(folder / "runs" / "vae", folder / "weights" / "vae", run.data)
    return folder


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 training and 150 test pictures."""
    return first_of_sample(tmp_path_factory.mktemp("data"), 400, 150)


@pytest.fixture
def options(data_folder: Path) -> list[str]:
    return ["--evaluator", str(SHIPPED), "--data-dir", str(data_folder), "--device", "cpu"]


def test_a_model_is_scored_into_its_manifest_and_then_compared(
    trained: Path,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, docs = tmp_path / "weights", tmp_path / "docs"
    shutil.copytree(trained / "weights", weights)
    kept = tmp_path / "vae.json"
    arguments = ["evaluate", str(weights / "vae"), "--samples", "100", "--write", "--json", str(kept)]
    assert main([*arguments, *options]) == 0
    assert "vae: 100 images, against 150 test images of fashion-mnist" in capsys.readouterr().out
    quality = {score.metric: score for score in read_manifest(weights / "vae").quality}
    assert quality["Frechet distance"].value == read_json(kept).scores["frechet_distance"]
    assert "| Frechet distance |" in (weights / "vae" / "card.md").read_text()

    docs.mkdir()
    (docs / "QUALITY.md").write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(curves, "TIMED_ROUNDS", 1)
    arguments = ["compare", str(weights), "--docs", str(docs), "--baseline", str(kept), "--measure"]
    assert main([*arguments, "--samples", "100", *options]) == 0
    assert [path.name for path in docs.iterdir()] == ["QUALITY.md"]
    capsys.readouterr()
    assert main([*arguments, "--write", "--samples", "100", *options]) == 0
    printed = capsys.readouterr().out
    assert "| vae | 1.00 |" in printed
    assert printed.strip() in (docs / "QUALITY.md").read_text()
    assert {path.name for path in docs.rglob("*.*")} == {
        "QUALITY.md",
        "quality.json",
        "quality-steps.png",
        "quality-milliseconds.png",
    }


def test_a_run_is_scored_against_training_images_by_the_sampler_asked_for(
    trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "ddpm.json"
    arguments = ["evaluate", str(trained / "runs" / "ddpm"), "--against", "train", "--samples", "100"]
    arguments += ["--solver", "ddim", "--steps", "2", "--guidance-scale", "1.5", "--seed", "7", "--json", str(kept)]
    assert main([*arguments, *options]) == 0
    found = read_json(kept)
    assert found.sampler == "ddim 2 steps, guidance 1.5"
    assert (found.model, found.first_seed, found.samples) == ("ddpm", 7, 100)
    assert found.reference == "200 training images of fashion-mnist"
    assert "copies" not in found.scores
    assert "ddim 2 steps, guidance 1.5" in capsys.readouterr().out


def test_pictures_of_no_class_are_others_and_are_reported(trained: Path, options: list[str], tmp_path: Path) -> None:
    """What learned without classes is scored without them."""
    run = ["evaluate", str(trained / "runs" / "vae"), "--against", "train", "--samples", "100", *options]
    assert main([*run, "--json", str(tmp_path / "classes.json")]) == 0
    assert main([*run, "--unconditional", "--json", str(tmp_path / "none.json")]) == 0
    classes, none = read_json(tmp_path / "classes.json"), read_json(tmp_path / "none.json")
    assert (classes.sampler, none.sampler) == (None, "no class")
    assert classes.scores["frechet_distance"] != none.scores["frechet_distance"]


@pytest.mark.parametrize(
    ("target", "arguments", "complaint"),
    [
        ("weights/none", [], "contains neither manifest.json of a model nor checkpoint.pt of a run"),
        ("runs/autoencoder", [], "autoencoder does not generate images"),
        ("runs/vae", ["--write"], "--write: .* is a run; scores belong to a model"),
        ("weights/vae", ["--write", "--against", "train"], "--write: published scores are against the test images"),
        ("weights/vae", ["--steps", "5"], "--steps: vae generates in one step"),
        ("weights/vae", ["--guidance-scale", "2"], "--guidance-scale: vae generates in one step"),
        ("weights/vae", ["--precision", "bfloat16"], "--precision: vae generates in one step"),
        ("runs/ddpm", ["--steps", "5000"], "steps 5000 is out of range"),
        ("runs/ddpm", ["--steps", "5,10"], "--steps: several values are only for a text-to-image model"),
        ("runs/ddpm", ["--pictures", "none"], "--pictures: only for a text-to-image model"),
        ("weights/vae", ["--samples", "19"], "--samples 19: at least 20"),
        ("weights/vae", ["--evaluator", "none"], "none/evaluator.json: No such file"),
        ("weights/vae", ["--data-dir", "none"], "no Fashion-MNIST in none"),
    ],
)
def test_what_cannot_be_evaluated_is_reported_in_one_line(
    trained: Path,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
    target: str,
    arguments: list[str],
    complaint: str,
) -> None:
    assert re.search(complaint, error_of(capsys, "evaluate", trained / target, *options, *arguments))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--samples", "0"),
        ("--samples", "many"),
        ("--steps", "-1"),
        ("--steps", "5,"),
        ("--seed", str(2**32)),
        ("--guidance-scale", "nan"),
        ("--guidance-scale", "-1"),
    ],
)
def test_an_impossible_number_is_reported_by_its_option(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "weights/vae", option, value])
    assert option in capsys.readouterr().err


def test_a_model_of_another_shape_is_refused_by_name(
    trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(trained / "weights" / "vae", tmp_path / "vae"))
    manifest = json.loads((model / "manifest.json").read_text())
    (model / "manifest.json").write_text(json.dumps(manifest | {"image_shape": [3, 32, 32], "golden": None}))
    message = error_of(capsys, "evaluate", model, *options)
    assert "the model's images are 3 x 32 x 32, the evaluator" in message
    assert "takes 1 x 28 x 28" in message


def test_a_model_of_other_classes_is_refused_by_name(
    trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(trained / "weights" / "vae", tmp_path / "vae"))
    manifest = json.loads((model / "manifest.json").read_text())
    names = manifest["class_names"]
    (model / "manifest.json").write_text(json.dumps(manifest | {"class_names": ["cat", "dog"]}))
    assert "the model has 2 classes" in error_of(capsys, "evaluate", model, *options)
    (model / "manifest.json").write_text(json.dumps(manifest | {"class_names": ["hat", *names[1:]]}))
    assert f"vae was trained on hat, {names[1]}" in error_of(capsys, "evaluate", model, *options)


def test_a_model_of_other_data_is_refused_by_name(
    trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(trained / "weights" / "vae", tmp_path / "vae"))
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["dataset"]["name"] = "mnist"
    (model / "manifest.json").write_text(json.dumps(manifest))
    assert "vae was trained on mnist, the evaluator" in error_of(capsys, "evaluate", model, *options)


def test_a_model_that_draws_nothing_is_refused_by_name(
    trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(trained / "weights" / "vae", tmp_path / "vae"))
    manifest = json.loads((model / "manifest.json").read_text())
    (model / "manifest.json").write_text(json.dumps(manifest | {"capabilities": ["encode"]}))
    assert "vae does not generate images: it can encode" in error_of(capsys, "evaluate", model, *options)


def test_an_altered_evaluator_is_refused_by_name(
    trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "evaluator"))
    file = json.loads((folder / FACTS_FILE).read_text())["file"]
    (folder / file).write_bytes(b"something else")
    message = error_of(capsys, "evaluate", trained / "weights" / "vae", *options, "--evaluator", folder)
    assert f"{file}: its SHA-256 is not" in message


def test_an_evaluator_is_trained_and_used(
    trained: Path,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifier, "BATCH_SIZE", 200)
    folder = tmp_path / "evaluator"
    assert main(["evaluator", "--epochs", "1", "--out", str(folder), *options[2:]]) == 0
    assert re.search(r"evaluator-\w{8}\.pt: \d+\.\d\d% of 150 test images correct", capsys.readouterr().out)
    facts = json.loads((folder / FACTS_FILE).read_text())
    assert (
        facts["command"] == "python -m trainer evaluator --dataset fashion-mnist --epochs 1 --seed 0 --precision fp32"
    )
    arguments = ["evaluate", str(trained / "weights" / "vae"), "--samples", "100", *options]
    assert main([*arguments, "--evaluator", str(folder)]) == 0
    assert f"evaluator {facts['sha256'][:8]}" in capsys.readouterr().out


def test_an_evaluator_of_a_folder_is_tested_on_its_held_out_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "BATCH_SIZE", 18)
    for name, value in (("dark", 0), ("bright", 255)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (32, 32), (value, number, number)).save(tmp_path / "photos" / name / f"{number}.png")
    folder = tmp_path / "evaluator"
    arguments = ["--dataset", f"folder:{tmp_path / 'photos'}", "--image-size", "32", "--channels", "3"]
    assert main(["evaluator", *arguments, "--epochs", "1", "--out", str(folder), "--device", "cpu"]) == 0
    assert "of 4 test images correct" in capsys.readouterr().out
    facts = json.loads((folder / FACTS_FILE).read_text())
    wanted = "--dataset folder:PATH --image-size 32 --channels 3 --epochs 1 --seed 0 --precision fp32"
    assert facts["command"] == f"python -m trainer evaluator {wanted}"
    assert (facts["image_shape"], facts["class_names"]) == ([3, 32, 32], ["bright", "dark"])


def test_own_pictures_without_classes_are_scored_by_an_evaluator_of_their_own(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "BATCH_SIZE", 60)
    photos, evaluator, run = tmp_path / "photos", tmp_path / "evaluator", tmp_path / "run"
    photos.mkdir()
    for number in range(220):
        Image.new("L", (28, 28), number).save(photos / f"{number}.png")
    (photos / "broken.png").write_bytes(b"")
    arguments = ["evaluator", "--dataset", f"folder:{photos}", "--epochs", "1", "--device", "cpu"]
    assert main([*arguments, "--out", str(evaluator)]) == 0
    printed = capsys.readouterr()
    assert "the evaluator learns to predict rotations by 90 degrees" in printed.out
    assert "of 22 test images in all four rotations correct" in printed.out
    assert "warning: chance is 25.00%" in printed.err  # a uniform image is equal in all rotations

    images = load_folder(photos, size=28, channels=1)
    TrainingRun(make_config("vae", dataset="folder", epochs=1), images, run, torch.device("cpu")).fit()
    kept = tmp_path / "scores.json"
    options = ["--evaluator", str(evaluator), "--data-dir", str(photos), "--device", "cpu", "--json", str(kept)]
    assert main(["evaluate", str(run), *options]) == 0
    printed = capsys.readouterr()
    assert "run: 198 images, against 22 test images of folder" in printed.out
    assert "real: 198 other real images against the same" in printed.out
    assert "note: 198 images are generated, not 10,000" in printed.err
    assert "warning: 198 images against 22 test images of folder: below 1,000" in printed.err
    assert "unreadable files, left out (1): broken.png" in printed.err
    assert "class_kl" not in read_json(kept).scores


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
def test_a_model_that_the_evaluator_cannot_score_does_not_stop_the_comparison(
    trained: Path,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(curves, "TIMED_ROUNDS", 1)
    weights = Path(shutil.copytree(trained / "weights", tmp_path / "weights"))
    own = Path(shutil.copytree(weights / "vae", weights / "own"))
    manifest = json.loads((own / "manifest.json").read_text())
    manifest["dataset"]["name"], manifest["name"] = "folder", "own"
    (own / "manifest.json").write_text(json.dumps(manifest))
    (weights / "broken").mkdir()
    (weights / "broken" / "manifest.json").write_text("{")
    (tmp_path / "QUALITY.md").write_text(f"{BEGIN}\n{END}\n")
    arguments = ["compare", str(weights), "--docs", str(tmp_path), "--measure", "--write", "--samples", "100", *options]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "broken is skipped: " in printed.err
    assert "own is skipped: own was trained on folder, the evaluator" in printed.err
    assert "python -m trainer evaluator --dataset folder:PATH --image-size 28 --channels 1 --out" in printed.err
    assert "| own | -" in printed.out
    measured = curves.read_json(tmp_path / curves.FILE_NAME)
    assert {point.model for point in measured.points} == {"vae"}
    assert measured.device == "CPU, 1 thread"  # as its times, whatever the process has
    shutil.rmtree(weights / "vae")
    assert main(arguments) == 1
    assert "error: --measure: the evaluator in" in capsys.readouterr().err


def test_a_published_set_takes_no_other_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dataset", "mnist", "--image-size", "32", "--out", tmp_path / "evaluator"]
    assert "--image-size and --channels are only for a folder" in error_of(capsys, "evaluator", *options)
