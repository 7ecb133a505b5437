"""A run begins with the network of a finished run, or of the model that was exported from it."""

import json
from pathlib import Path

import pytest
import torch

from service.contract.manifest import MANIFEST_FILE
from tests.trainer.conftest import FAMILIES
from trainer.export import ExportError, export
from trainer.run.loop import TrainingRun
from trainer.start import StartError, load_start


@pytest.fixture(scope="module")
def models(finished_runs: dict[str, TrainingRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a model of each family."""
    weights = tmp_path_factory.mktemp("weights")
    for name in FAMILIES:
        export(finished_runs[name].folder, weights / name, finished_runs[name].data)
    return weights


def rewritten(models: Path, target: Path, **training: object) -> Path:
    """The VAE of ``models`` with other facts of its training in its manifest."""
    target.mkdir()
    for file in (models / "vae").iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((target / MANIFEST_FILE).read_text())
    manifest["training"] |= training
    (target / MANIFEST_FILE).write_text(json.dumps(manifest))
    return target


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_as_good_a_beginning_as_its_run(
    finished_runs: dict[str, TrainingRun], models: Path, name: str
) -> None:
    run, model = load_start(finished_runs[name].folder), load_start(models / name)
    assert (model.config, model.facts) == (run.config, run.facts)
    assert model.generator.keys() == run.generator.keys()
    for key, value in run.generator.items():
        torch.testing.assert_close(model.generator[key], value, rtol=0, atol=0)


def test_a_run_that_is_not_finished_is_no_beginning(finished_runs: dict[str, TrainingRun], tmp_path: Path) -> None:
    done = finished_runs["vae"]
    half = TrainingRun(done.config, done.data, tmp_path, done.device)
    half.save()
    with pytest.raises(ExportError, match="0 of 8 steps are done"):
        load_start(tmp_path)


def test_a_model_that_does_not_tell_how_it_was_trained_is_no_beginning(models: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"--from: .*manifest.json lacks a valid training.settings.preset"):
        load_start(rewritten(models, tmp_path / "vae", settings={}))


def test_a_model_of_other_networks_is_no_beginning(models: Path, tmp_path: Path) -> None:
    settings = json.loads((models / "vae" / MANIFEST_FILE).read_text())["training"]["settings"]
    settings["model"]["width"] *= 2
    with pytest.raises(
        StartError, match=r"--from: .*vae was exported by another version of the trainer: .*size mismatch"
    ):
        load_start(rewritten(models, tmp_path / "vae", settings=settings))


def test_it_says_when_its_pictures_are_others(finished_runs: dict[str, TrainingRun]) -> None:
    start = load_start(finished_runs["vae"].folder)
    start.require_matching(start.facts)
    with pytest.raises(StartError, match="was trained on 64 images of fashion-mnist"):
        start.require_matching(type(start.facts)("other", (3, 32, 32), ("one",), "CC0", "none", 4))
