import json
from pathlib import Path

import pytest

from service.cli import main
from service.cli.about import table
from tests.service.cli.conftest import MODEL, FakeService

INSPECTION = {
    "model": "ddpm",
    "model_version": "0123abcd",
    "path": "/generate/ddpm",
    "params": {"n": 1, "class_label": "bag", "image": "data:image/png;base64," + "A" * 1000},
    "curl": "curl -X POST ...",
    "python": "...",
}


def test_columns_stand_below_one_another() -> None:
    assert table([("A", "LONG"), ("long", "b"), ("", "")]) == ["A     LONG", "long  b", ""]


def test_what_is_served(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET /models"] = (200, [MODEL])
    assert main(["models"]) == 0
    heads, row = capsys.readouterr().out.splitlines()
    assert heads.split() == ["MODEL", "FAMILY", "VERSION", "PICTURES", "CLASSES", "CAN"]
    assert row == "ddpm   ddpm    0123abcd  1 x 28 x 28  2        generate, image_to_image"
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [MODEL]


@pytest.mark.parametrize(
    ("served", "told"),
    [
        ("0123abcd", "ddpm 0123abcd, served here"),
        (None, "ddpm 0123abcd, not served here"),
        ("ffffffff", "ddpm 0123abcd, ffffffff is served here, which generates other pictures"),
    ],
)
def test_what_made_a_picture(
    fake: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str], served: str | None, told: str
) -> None:
    fake.answers["POST /inspect"] = (200, {**INSPECTION, "served_version": served})
    (tmp_path / "one.png").write_bytes(b"a picture")
    assert main(["inspect", str(tmp_path / "one.png")]) == 0
    image = f'  image: "data:image/png;base64,{"A" * 57}...'
    lines = capsys.readouterr().out.splitlines()
    assert lines == [told, "  n: 1", '  class_label: "bag"', image, "curl -X POST ..."]
    assert main(["inspect", "--json", str(tmp_path / "one.png")]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == INSPECTION["params"]


def test_a_file_that_is_not_there(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nowhere.png"]) == 1
    assert capsys.readouterr().err == "error: nowhere.png: No such file or directory\n"
