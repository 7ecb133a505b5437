import json
import re
import shutil
from pathlib import Path

import pytest

from tests.trainer.commands.test_cli import error_of
from tests.trainer.evaluate.conftest import SHIPPED
from trainer.__main__ import main
from trainer.evaluate.evaluator import FACTS_FILE
from trainer.evaluate.measurement import read_json


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
