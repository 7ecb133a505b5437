"""What `genserve add` prints."""

import json
import re
import shutil
from pathlib import Path

import pytest

from service import process
from service.cli import main
from tests.service.artefacts import write_diffusion
from tests.service.models.diffusers.tiny import edit_json, write_folder, write_lora


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ControlNet, a LoRA, and a scheduler that another solver serves."""
    folder = write_folder(tmp_path_factory.mktemp("add") / "control", "control")
    write_lora(folder, "ink", seed=1)
    edit_json(folder / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    edit_json(folder / "scheduler/scheduler_config.json", _class_name="PNDMScheduler")
    (folder / "genserve.json").write_text(json.dumps({"licence": "MIT", "defaults": {"steps": 8}}))
    return folder


@pytest.fixture
def control(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, beside an empty weights folder in the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENSERVE_WEIGHTS_DIR", raising=False)
    (tmp_path / "weights").mkdir()
    return Path(shutil.copytree(written, tmp_path / "control"))


def test_says_what_the_model_can_do(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", "control"]) == 0
    printed = capsys.readouterr().out
    assert re.match(r"weights/control: StableDiffusionControlNetPipeline, version [0-9a-f]{8}, copied\n", printed)
    facts = {line[:13].strip(): line[13:].strip() for line in printed.splitlines() if line.startswith("  ")}
    assert facts == {
        "tasks": "text to image, image to image, inpaint, control",
        "size": "16 x 16; sides from 4 to 32, multiples of 4",
        "prompts": "14 tokens, with negative prompts",
        "solver": "dpmpp_2m for PNDMScheduler; also ddim, ddpm, euler, euler_ancestral, lcm",
        "steps": "8, guidance 7.5",
        "ControlNets": "controlnet",
        "LoRAs": "ink",
        "licence": "MIT",
        "memory": "0.8 MiB of weights on a CPU, 0.8 MiB on a GPU, besides that for computing",
        "note": "PNDMScheduler is served by dpmpp_2m: its pictures differ from the pipeline's",
    }
    assert printed.endswith("a running service loads it by `genserve load control`.\n")


def test_warns_of_memory(control: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "available_bytes", lambda: 100_000)
    assert main(["add", "control", "--link", "--name", "fox", "--weights", "weights"]) == 0
    printed = capsys.readouterr().out
    assert "weights/fox: " in printed
    assert "WARNING: only 0.1 MiB are free on this machine" in printed


def test_an_exported_model(control: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_diffusion(tmp_path)
    assert main(["add", "ddpm"]) == 0
    assert re.search(r"  size +8 x 8\n  classes +3\n  steps +\d+, guidance", capsys.readouterr().out)


def test_a_lora(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", "control"]) == 0
    lora = write_lora(Path(), "oil", seed=2)
    capsys.readouterr()
    assert main(["add", str(lora), "--lora-of", "control"]) == 0
    assert capsys.readouterr().out.endswith('a LoRA of control; requests choose it by "lora": "oil"\n')
    assert main(["add", str(lora)]) == 1
    assert capsys.readouterr().err == (
        "error: loras/oil.safetensors: not a folder; a LoRA needs --lora-of MODEL, and any other file must be saved by "
        "save_pretrained\n"
    )


def test_a_failure_is_one_line(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (control / "unet/weights.bin").write_bytes(b"")
    assert main(["add", "control"]) == 1
    assert re.fullmatch(r"error: \S+/control/unet/weights\.bin: a pickle .*\n", capsys.readouterr().err)
    assert [*Path("weights").iterdir()] == []


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["add", "--help"])
    assert "genserve add ink.safetensors --lora-of fox" in capsys.readouterr().out
