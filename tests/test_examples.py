"""The examples do what they say."""

import asyncio
import re
import runpy
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.contract.manifest import Golden, Manifest
from service.models.golden import draw
from service.models.torchscript import load_model
from tests.service.artefacts import IMAGE_SHAPE, write_diffusion, write_one_shot
from tests.service.models.diffusers.tiny import write_folder, write_lora

EXAMPLES = Path(__file__).parents[1] / "examples"
ENGINE, ONE_BATCH = EXAMPLES / "engine.py", EXAMPLES / "one_batch.py"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENSERVE_DEVICE", "cpu")
    monkeypatch.setenv("GENSERVE_MAX_BUCKET", "4")


def seeded(manifest: Manifest, seed: int) -> Golden:
    """The picture that the example should make of a seed."""
    defaults = manifest.defaults
    steps, solver = (defaults.steps, defaults.solver) if defaults else (None, None)
    return Golden(seed=seed, class_label=manifest.null_label, steps=steps, solver=solver, picture="")


@pytest.mark.parametrize("write", [write_one_shot, write_diffusion])
def test_the_engine_in_this_process_makes_the_picture_of_each_seed(
    write: Callable[[Path], Manifest], tmp_path: Path
) -> None:
    manifest = write(tmp_path)
    folder = tmp_path / manifest.name
    made = asyncio.run(runpy.run_path(str(ENGINE))["pictures"](folder, [3, 1, 4]))
    model = load_model(folder, torch.device("cpu"))
    right = [draw(model, seeded(manifest, seed)) for seed in (3, 1, 4)]
    assert np.abs(np.stack(made).astype(int) - np.stack(right)).max() <= 1
    assert np.abs(right[0].astype(int) - right[1]).max() > 10  # so that a mistake would be seen


def test_the_example_writes_a_grid_of_sixteen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_diffusion(tmp_path)
    grid = tmp_path / "grid.png"
    monkeypatch.setattr("sys.argv", [str(ENGINE), str(tmp_path / "ddpm"), str(grid)])
    runpy.run_path(str(ENGINE), run_name="__main__")
    height, width = Image.open(BytesIO(grid.read_bytes())).size
    assert height // 4 >= IMAGE_SHAPE[1]
    assert width // 4 >= IMAGE_SHAPE[2]


def test_different_requests_share_every_forward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, grid = write_folder(tmp_path / "control", "control"), tmp_path / "grid.png"
    write_lora(folder, "ink", seed=1, text=True)
    with pytest.raises(ValueError, match="control needs two LoRAs and a ControlNet"):
        runpy.run_path(str(ONE_BATCH))["main"](folder, grid)
    write_lora(folder, "chalk", seed=2)
    monkeypatch.setattr("sys.argv", [str(ONE_BATCH), str(folder), str(grid)])
    runpy.run_path(str(ONE_BATCH), run_name="__main__")
    together, alone, difference = capsys.readouterr().out.splitlines()
    assert together == "4 pictures of 8 steps, 8 forward passes of 8 rows"
    assert alone == "one by one, 32 forward passes of 2 rows"
    assert re.fullmatch("the pictures differ by at most [01] of 255 grey levels", difference)
    pixels = np.asarray(Image.open(grid))
    assert len({pixels[top : top + 16, left : left + 16].tobytes() for top in (0, 16) for left in (0, 16)}) == 4
