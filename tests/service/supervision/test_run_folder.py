import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.supervision import run_folder
from service.supervision.run_folder import NAME_BYTES, RunFolder

ROOT = Path(__file__).parents[3]


@pytest.fixture
def base() -> Iterator[Path]:
    """An empty folder with a short path: pytest's own are too long for a socket."""
    path = Path("/tmp") / f"runs{os.getpid()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def test_it_is_private_and_goes_with_its_files(base: Path) -> None:
    folder = RunFolder.create([base])
    assert folder.path.parent == base
    assert re.fullmatch(r"genserve-\w{8}", folder.path.name)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.file("engine-0").write_bytes(b"x")
    folder.remove()
    folder.remove()
    assert list(base.iterdir()) == []


def test_the_longest_name_is_short_enough_for_a_socket() -> None:
    folder = RunFolder.create()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder.file("s" * NAME_BYTES)))
    folder.remove()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "x" * (NAME_BYTES + 1), "é" * NAME_BYTES, "a\0"])
def test_what_is_no_name_of_a_file_is_refused(base: Path, name: str) -> None:
    folder = RunFolder.create([base])
    with pytest.raises(ValueError, match="name is"):
        folder.file(name)
    folder.remove()


def test_only_a_killed_service_leaves_a_folder_and_the_next_removes_it(base: Path) -> None:
    script = f"""
import os, pathlib
from service.supervision.run_folder import RunFolder
folder = RunFolder.create([pathlib.Path({str(base)!r})])
folder.file("engine").write_text("left")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    (killed,) = base.iterdir()
    lives = RunFolder.create([base])
    assert not killed.exists()
    another = RunFolder.create([base])
    assert set(base.iterdir()) == {lives.path, another.path}
    lives.remove()
    another.remove()


def test_what_is_not_a_leftover_stays(base: Path) -> None:
    target = base / "target"
    target.mkdir()
    (base / "genserve-abcdefgh").write_text("a file")
    (base / "genserve-abcdefgi").symlink_to(target)
    (base / "genserve-x").mkdir()
    (base / "genserve-training").mkdir()  # named like ours
    (base / "genserve-training" / "model.pt").touch()
    before = set(base.iterdir())
    folder = RunFolder.create([base])
    assert set(base.iterdir()) == {*before, folder.path}
    folder.remove()


def test_a_folder_of_another_user_stays(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "genserve-abcdefgh").mkdir()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    run_folder._remove_leftovers(base)
    assert (base / "genserve-abcdefgh").exists()


def test_an_empty_folder_of_a_service_that_was_killed_at_its_start_is_removed(base: Path) -> None:
    (base / "genserve-abcdefgh").mkdir()
    folder = RunFolder.create([base])
    assert list(base.iterdir()) == [folder.path]
    folder.remove()


def test_a_folder_is_made_again_if_another_service_takes_it_for_a_leftover(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = tempfile.mkdtemp

    def and_lose_the_first(prefix: str, dir: Path) -> str:
        made.append(make(prefix=prefix, dir=dir))
        if len(made) == 1:
            run_folder._remove_leftovers(base)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", and_lose_the_first)
    folder = RunFolder.create([base])
    assert [str(folder.path)] == made[1:]
    folder.remove()


def test_services_that_start_together_keep_their_folders(base: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        folders = list(threads.map(RunFolder.create, [[base]] * 40))
    assert {folder.path for folder in folders} == set(base.iterdir())
    assert len(folders) == 40
    for folder in folders:
        folder.remove()


def test_bases_that_are_missing_or_too_long_are_passed_over(base: Path) -> None:
    long = base / ("x" * 80)
    long.mkdir()
    folder = RunFolder.create([base / "missing", long, base])
    assert folder.path.parent == base
    folder.remove()
    with pytest.raises(OSError, match="not writable"):
        RunFolder.create([base / "missing", long])
