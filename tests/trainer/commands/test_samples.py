from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.run.loop import TrainingRun

PNG = b"\x89PNG"
SHIPPED = Path(__file__).parents[3] / "weights"


def test_prompts_and_seeds_are_the_same_each_time(text_run: TrainingRun, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first.png", "again.png", "seed.png", "steps.png")]
    for file, options in zip(files, ([], [], ["--seed", "1"], ["--steps", "1"]), strict=True):
        assert main(["samples", str(text_run.folder), str(file), *options]) == 0
    first, again, *others = (file.read_bytes() for file in files)
    assert first.startswith(PNG)
    assert first == again
    assert all(other != first for other in others)


def test_a_model_of_classes_has_its_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grid.png"
    assert main(["samples", str(SHIPPED / "quick-gan"), str(out)]) == 0
    assert out.read_bytes().startswith(PNG)
    assert main(["samples", str(SHIPPED / "quick-gan"), str(out)]) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert main(["samples", str(SHIPPED / "quick-gan"), str(out), "--overwrite", "--steps", "3"]) == 1
    assert "--steps: only for a text-to-image model" in capsys.readouterr().err
