"""The tutorials do what they show: their curls, their Python, their training, and the series that they name."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.metrics import Metrics
from tests.e2e.process import ROOT, Service, serving
from tests.e2e.test_curls import run_curls
from tests.service.artefacts import write_text

TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped() -> Iterator[Service]:
    """The shipped models, with two API processes as in the tutorial about scaling."""
    with serving(ROOT / "weights", api_servers=2, max_bucket=8, max_queue_ms=1e9) as running:
        yield running


@pytest.mark.parametrize("name", ["serve", "monitoring", "scaling"])
def test_curls_with_the_shipped_models(shipped: Service, tmp_path: Path, name: str) -> None:
    run_curls(shipped, tmp_path, f"docs/tutorials/{name}.md")


def test_prompts_and_sketches(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    write_text(weights, "emoji", capabilities=("generate", "interpolate"))
    write_text(weights, "emoji-control", sketches=True)
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(tmp_path / "sketch.png")
    with serving(weights) as service:
        run_curls(service, tmp_path, "docs/tutorials/prompts-and-sketches.md")


def test_python(shipped: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tutorials/serve.md").read_text(), flags=re.DOTALL)
    monkeypatch.setenv("GENSERVE_URL", f"http://127.0.0.1:{shipped.port}")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert len(list((tmp_path / "bags").iterdir())) == 4


@pytest.mark.timeout(900)
def test_pictures_of_your_own(tmp_path: Path) -> None:
    """From a folder of pictures to an answer, with short trainings."""
    randomness = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(30):
            pixels = randomness.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    text = (ROOT / "examples/own-folder.md").read_text().partition("## ")[0]
    for command in re.findall(r"^    \.venv/bin/python (-m trainer .+)$", text, flags=re.MULTILINE):
        short = ["--steps", "2", "--batch-size", "8", "--device", "cpu"] if " train " in command else []
        subprocess.run(
            [sys.executable, *shlex.split(command), *short],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=True,
        )
    with serving(tmp_path / "weights", max_bucket=4, max_queue_ms=1e9, max_request_ms=1e9) as service:
        run_curls(service, tmp_path, "examples/own-folder.md")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_commands_and_series_exist(path: Path) -> None:
    text = path.read_text()
    for command in re.findall(r"^    (?:\w+=\S+ )*(make .+)$", text, flags=re.MULTILINE):
        subprocess.run(
            ["make", "--dry-run", *shlex.split(command)[1:]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
    named = {re.sub(r"_bucket$", "", each) for each in re.findall(r"\bgenserve_[a-z_]+", text)}
    families = Metrics().registry.collect()
    assert named <= {each.name + ("_total" if each.type == "counter" else "") for each in families}
