import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from service.contract.manifest import read_manifest
from trainer.__main__ import main
from trainer.evaluate import curves
from trainer.evaluate.compare import BEGIN, END
from trainer.evaluate.measurement import read_json


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
