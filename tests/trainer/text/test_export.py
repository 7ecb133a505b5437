"""A trained text-to-image run becomes a model: its files, what it computes, and what starts from it."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from service.app import create_app
from service.contract.artifact import check_files
from service.contract.files import ContractError
from service.contract.manifest import Manifest, read_manifest
from service.models.golden import check_golden
from service.models.torchscript import load_model
from service.settings import Settings
from tests.service.api.conftest import JSON, decode
from tests.trainer.conftest import EMOJI, MakeTextConfig
from trainer.__main__ import main
from trainer.data import ImageData
from trainer.evaluate.subject import load_subject
from trainer.export import averaged_parts, export
from trainer.generate import pictures_of
from trainer.models.text_parts import TextParts
from trainer.run import checkpoint
from trainer.run.loop import TrainingRun
from trainer.start import load_start

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(text_run: TrainingRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of ``text_run``, by the command."""
    target = tmp_path_factory.mktemp("weights") / "emoji"
    assert main(["export", str(text_run.folder), str(target), "--data-dir", str(EMOJI)]) == 0
    return target


@pytest.fixture(scope="module")
def manifest(model: Path) -> Manifest:
    return read_manifest(model)


def test_the_files_are_named(model: Path, manifest: Manifest) -> None:
    assert manifest.text is not None
    check_files(model, manifest)
    names = {manifest.artifact.file, manifest.text.words.file, "manifest.json", "card.md", "samples.png"}
    assert {path.name for path in model.iterdir()} == names
    assert (manifest.family, manifest.class_names, manifest.capabilities) == ("ddpm", (), ("generate", "interpolate"))
    assert (manifest.text.tokens, manifest.text.width, manifest.text.hint_shape) == (12, 32, None)


def test_the_words_have_the_names_of_emoji(model: Path, manifest: Manifest) -> None:
    assert manifest.text is not None
    words = json.loads((model / manifest.text.words.file).read_text())
    assert words["pictographs"]["\u2764"] == "red heart"
    assert not any(characters.isascii() for characters in words["pictographs"])


def test_the_card_names_licences_and_what_was_not_measured(model: Path) -> None:
    card = (model / "card.md").read_text()
    assert "SIL-1.1" in card
    assert "Unicode-DFS-2016" in card
    assert "## Memorisation" in card
    assert "has not been measured yet" in card
    with Image.open(model / "samples.png") as image:
        assert image.size == (8 * 66 + 2, 6 * 66 + 2)


def test_equal_runs_give_equal_bytes(text_run: TrainingRun, manifest: Manifest, tmp_path: Path) -> None:
    again = export(text_run.folder, tmp_path / "emoji", None)
    assert again.artifact == manifest.artifact


def test_weights_are_stored_in_half_of_the_bytes(text_run: TrainingRun, manifest: Manifest) -> None:
    weights = sum(value.nbytes for value in text_run.objective.generator.parameters())
    assert manifest.artifact.size < 0.5 * weights + 200_000


def test_the_service_generates_the_pictures_of_the_run(text_run: TrainingRun, model: Path) -> None:
    """Over HTTP: the pictures of the averaged networks, and the golden one."""
    check_golden(load_model(model, CPU))
    parts = averaged_parts(*checkpoint.load(text_run.folder))
    assert isinstance(parts, TextParts)
    prompts = ["red heart", "cook"]
    wanted = pictures_of(parts, prompts, [3, 4], CPU).numpy()
    settings = Settings(weights_dir=model.parent, engine="inline", device="cpu", engine_threads=1, max_bucket=2)
    with TestClient(create_app(settings.model_copy(update={"max_queue_ms": 1e9}))) as service:
        body = {"prompt": ["\u2764\ufe0f", "blorp cook"], "seed": 3}
        answer = service.post("/generate/emoji", json=body, headers=JSON)
    assert answer.status_code == 200, answer.text
    assert answer.json()["warnings"] == ["prompt: unknown words are ignored: blorp"]
    made = [decode(base64.b64decode(image["b64_json"])) for image in answer.json()["images"]]
    np.testing.assert_allclose(np.stack(made).astype(int), wanted.astype(int), atol=1)


def test_another_run_starts_from_it(
    text_run: TrainingRun, model: Path, emoji: ImageData, make_text_config: MakeTextConfig
) -> None:
    """With its weights, rounded, and its tokenizer; buffers are exact."""
    start = load_start(model)
    start.require_matching(emoji.facts)
    assert start.config == text_run.config
    assert start.notes == text_run.objective.notes()
    averages = checkpoint.generator(checkpoint.load(text_run.folder)[1])
    assert start.generator.keys() == averages.keys()
    exact = dict(text_run.objective.generator.named_buffers())
    for name, value in start.generator.items():
        assert value.equal(averages[name] if name in exact else averages[name].half().float()), name


def test_it_is_evaluated_as_the_run(text_run: TrainingRun, model: Path) -> None:
    subjects = [load_subject(folder, CPU).parts for folder in (model, text_run.folder)]
    assert all(isinstance(parts, TextParts) for parts in subjects)
    ours, theirs = (pictures_of(parts, ["red heart"], [5], CPU).int() for parts in subjects)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs, atol=1, rtol=0)


def test_changed_words_are_rejected(model: Path, manifest: Manifest, tmp_path: Path) -> None:
    assert manifest.text is not None
    copied = tmp_path / "emoji"
    copied.mkdir()
    for path in model.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    words = copied / manifest.text.words.file
    words.write_bytes(words.read_bytes().replace(b"red heart", b"red pizza", 1))
    for load in (load_start, lambda folder: load_subject(folder, CPU)):
        with pytest.raises(ContractError, match="SHA-256"):
            load(copied)
