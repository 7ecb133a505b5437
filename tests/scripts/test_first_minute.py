from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from scripts import first_minute
from scripts.first_minute import LETTERS_MS, LONGEST_MS, SIZE, Line, main


def test_a_run_becomes_a_film_of_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def service() -> Iterator[tuple[list[Line], dict[str, str]]]:
        yield [Line("12:00:00 gan ready", 5), Line("12:00:09 open http://127.0.0.1:1", 9000)], {}

    def run(command: str, folder: Path, environment: dict[str, str]) -> list[str]:
        Image.new("L", (90, 90), 255).save(folder / first_minute.COMMANDS[command])
        return ["written"]

    monkeypatch.setattr(first_minute, "_service", service)
    monkeypatch.setattr(first_minute, "_run", run)
    assert main([str(tmp_path / "film.gif")]) == 0
    with Image.open(tmp_path / "film.gif") as film:
        assert film.size == SIZE
        assert getattr(film, "n_frames", 1) > 20
        film.seek(0)
        assert film.info["duration"] >= LETTERS_MS
    pages = list(first_minute._printed([], [Line("a", 9000), Line("b", 1)]))
    assert [wait for _, wait in pages] == [LONGEST_MS, LETTERS_MS, 2 * LONGEST_MS]


def test_without_a_path_it_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "python -m scripts.first_minute" in capsys.readouterr().err
