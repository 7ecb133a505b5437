"""docs/DIFFUSERS.md leads from a saved pipeline to a picture; all but the installation is run as it is written."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.process import Service
from tests.service.models.diffusers.tiny import write_folder

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/DIFFUSERS.md").read_text()

pytestmark = pytest.mark.slow


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository with a saved pipeline, an empty weights folder, and an environment that has everything."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "service"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "weights").mkdir()
    write_folder(tmp_path / "fox", "sd")
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for program, command in {"pip": "false", "python": sys.executable, "genserve": "python -m service.cli"}.items():
        path = programs / program
        path.write_text(f'#!/bin/sh\nPATH="{Path(sys.executable).parent}:$PATH" exec {command} "$@"\n')
        path.chmod(0o755)
    for stamp in (".torch", ".serve", ".diffusers"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """One process, which loads the libraries once, on a free port."""
    own = {name: text for name, text in os.environ.items() if not name.startswith(("GENSERVE_", "MAKE"))}
    settings = {"PORT": "0", "DEVICE": "cpu", "MAX_BUCKET": "4", "ENGINE": "inline"}
    return own | {f"GENSERVE_{name}": text for name, text in settings.items()} | {"OMP_NUM_THREADS": "1"}


def test_from_a_saved_pipeline_to_a_picture_in_three_commands(clone: Path, environment: dict[str, str]) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    install, add, serve = (line.partition("#")[0].split() for line in block.splitlines())
    assert install == ["make", "install-diffusers"]
    subprocess.run(install, cwd=clone, env=environment, check=True, timeout=60)
    added = subprocess.run(add, cwd=clone, env=environment, check=True, timeout=120, capture_output=True, text=True)
    assert added.stdout.startswith("weights/fox: StableDiffusionPipeline, version ")
    shown = re.findall(r"^      (\w+)  ", DOCUMENT, flags=re.MULTILINE)
    printed = re.findall(r"^  (\w+)  ", added.stdout, flags=re.MULTILINE)
    assert printed
    assert [name for name in shown if name != "note"] == [name for name in printed if name != "note"]
    with subprocess.Popen(
        serve, cwd=clone, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            service = Service(process)
            answer = service.client.get("/generate/fox", params={"prompt": "a fox", "steps": 2})
            assert answer.content.startswith(b"\x89PNG"), answer.text
            service.stop(signal.SIGTERM)
            service.client.close()
        finally:
            with suppress(ProcessLookupError):  # make passed the signal on, and all have ended
                os.killpg(process.pid, signal.SIGKILL)
