import base64
import json
from pathlib import Path
from typing import Any

import pytest

from service.cli import main
from tests.service.cli.conftest import FakeService
from tests.service.client.answers import problem


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files are written here unless their path says otherwise."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (
            "generate ddpm --class-label sneaker -n 16 --seed 7 -o grid.png",
            {"n": 16, "seed": 7, "class_label": "sneaker", "format": "png", "scale": 9},
        ),
        (
            "generate ddpm --class-label 3 --class-label none --seed 7 -o two.npy",
            {"n": 2, "seed": 7, "class_label": ["3", "none"], "format": "npy"},
        ),
        (
            "generate ddpm --seed 7 --set mask_invert=true --set version=0123abcd -o one.jpg",
            {"seed": 7, "mask_invert": True, "version": "0123abcd", "format": "jpeg", "scale": 9},
        ),
        (
            "film ddpm --seed 7 --preview-every 5 --steps 50",
            {"seed": 7, "layout": "film", "preview_every": 5, "steps": 50, "format": "gif", "scale": 9},
        ),
        (
            "interpolate ddpm --from-seed 1 --to-seed 2 --frames 5 --guidance-scale 2.5 -o strip.webp",
            {
                "model": "ddpm",
                "from": {"seed": 1},
                "to": {"seed": 2},
                "frames": 5,
                "guidance_scale": 2.5,
                "scale": 9,
                "format": "webp",
            },
        ),
        (
            "interpolate sd --from-seed 1 --from-prompt hut --to-seed 1 --prompt castle --lora ink -o walk.gif",
            {
                "model": "sd",
                "from": {"seed": 1, "prompt": "hut"},
                "to": {"seed": 1},
                "prompt": "castle",
                "lora": "ink",
                "scale": 1,
                "format": "gif",
            },
        ),
    ],
)
def test_options_are_the_fields_of_a_request(fake: FakeService, command: str, asked: dict[str, Any]) -> None:
    assert main(command.split()) == 0
    path = "/interpolate" if "interpolate" in command else "/generate/ddpm"
    assert fake.body(f"POST {path}") == asked


def test_pictures_are_sent_from_files(fake: FakeService, somewhere: Path) -> None:
    (somewhere / "one.png").write_bytes(b"a picture")
    encoded = base64.b64encode(b"a picture").decode()
    assert main(["generate", "ddpm", "--image", "one.png", "--strength", "0.4"]) == 0
    body = fake.body("POST /generate/ddpm")
    assert (body["image"], body["strength"]) == (encoded, 0.4)
    assert main(["interpolate", "ddpm", "--from-image", "one.png"]) == 0
    body = fake.body("POST /interpolate")
    assert body["from"] == {"image": encoded}
    assert body["to"].keys() == {"seed"}


@pytest.mark.parametrize(
    ("output", "file"),
    [([], "ddpm.png"), (["-o", "deep/down/grid.png"], "deep/down/grid.png")],
)
def test_pictures_become_a_file(
    fake: FakeService, somewhere: Path, capsys: pytest.CaptureFixture[str], output: list[str], file: str
) -> None:
    assert main(["generate", "ddpm", *output]) == 0
    assert (somewhere / file).read_bytes() == b"the file"
    out, err = capsys.readouterr()
    assert out == f"{file}: ddpm 0123abcd, seeds 7, 8, ...\n"
    assert err == ""


def test_pictures_go_to_standard_output(fake: FakeService, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["generate", "ddpm", "-o", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"the file"
    assert err == b"-: ddpm 0123abcd, seeds 7, 8, ...\n"


def test_programs_are_told_in_json(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "ddpm", "--json", "-o", "grid.png"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": "grid.png",
        "media_type": "image/png",
        "model": "ddpm",
        "model_version": "0123abcd",
        "seeds": [7, 8, 9],
        "params": {"seed": 7},
    }


def test_a_refusal_is_one_line(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["POST /generate/ddpm"] = (422, problem(422, "invalid-field", steps="is above 1000"))
    assert main(["generate", "ddpm", "--steps", "9999"]) == 1
    assert capsys.readouterr().err == "error: It is not to be had.\n"


def test_a_file_that_cannot_be_written_is_one_line(
    fake: FakeService, somewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (somewhere / "folder.png").mkdir()
    assert main(["generate", "ddpm", "-o", "folder.png"]) == 1
    assert capsys.readouterr().err == "error: folder.png: Is a directory\n"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("generate", "required: model"),
        ("generate ddpm -o grid.tiff", "'grid.tiff' does not end with one of .png"),
        ("generate ddpm --image nowhere.png", "argument --image: nowhere.png: No such file or directory"),
        ("generate ddpm --set n", "'n' is not FIELD=VALUE"),
        ("generate ddpm -n many", "invalid int value"),
        ("interpolate ddpm --from-seed 1 --from-image x.png", "--from-image"),
        ("paint", "invalid choice"),
    ],
)
def test_a_command_that_is_not_understood(command: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(command.split())
    assert end.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "film", "interpolate"])
def test_help_has_examples_that_are_understood(
    command: str, fake: FakeService, somewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    examples = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("  genserve ")]
    assert len(examples) >= 2
    (somewhere / "one.png").write_bytes(b"a picture")
    fake.answers |= {
        f"POST /generate/{model}": (202, fake.answers["POST /interpolate"][1]) for model in ("vae", "gan", "sd")
    }
    assert [main(example) for example in examples] == [0] * len(examples)
