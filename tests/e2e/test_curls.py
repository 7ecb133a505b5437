"""Every curl in the documents is run, in their order, against the shipped models."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli import main
from tests.documents import HOST, ROOT, blocks_of
from tests.e2e.process import Service, serving
from tests.service.models.diffusers.tiny import write_folder, write_lora

#: Keeps every command's words and what it printed; one that fails ends the script.
CURL = """
set -euo pipefail
curl() {
  local kept; kept=$(mktemp -d answers/XXXXXXXX)
  printf '%q ' curl "$@" > "$kept/command"
  command curl --silent --show-error --fail-with-body --max-time 60 "$@" > "$kept/answer" || {
    cat "$kept/command" "$kept/answer" >&2
    return 22
  }
  cat "$kept/answer"
}
"""

BEGINNINGS = {
    ".png": b"\x89PNG",
    ".webp": b"RIFF",
    ".gif": b"GIF8",
    ".npy": b"\x93NUMPY",
    ".zip": b"PK",
    ".json": b"{",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped() -> Iterator[Service]:
    with serving(ROOT / "weights", max_bucket=8, max_queue_ms=1e9) as running:
        yield running


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a tiny folder that has a ControlNet and a LoRA."""
    weights = tmp_path_factory.mktemp("diffusers") / "weights"
    write_lora(write_folder(weights / "control", "control"), "ink", seed=1)
    with serving(weights, max_bucket=8, max_queue_ms=1e9) as running:
        yield running


@pytest.mark.parametrize("document", ["README.md", "docs/API.md"])
def test_every_curl_does_what_it_shows(shipped: Service, tmp_path: Path, document: str) -> None:
    run_curls(shipped, tmp_path, document)


def test_every_curl_with_a_prompt_does_what_it_shows(diffusers: Service, tmp_path: Path) -> None:
    run_curls(diffusers, tmp_path, "docs/DIFFUSERS.md")


def run_curls(service: Service, tmp_path: Path, document: str) -> None:
    """Run every block of a document, and check what each request was answered."""
    (tmp_path / "answers").mkdir()
    blocks = blocks_of(ROOT / document)
    assert blocks
    for block in blocks:
        script = CURL + block.replace(HOST, f"127.0.0.1:{service.port}")
        run = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=120)
        assert run.returncode == 0, f"{block}\n{run.stderr.decode()}"
    kept = list((tmp_path / "answers").iterdir())
    assert len(kept) == sum(block.count("curl ") for block in blocks)
    for each in kept:
        check(shlex.split((each / "command").read_text()), (each / "answer").read_bytes(), tmp_path)


def test_the_example_in_python_runs(
    shipped: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "API.md").read_text(), flags=re.DOTALL)
    [example] = [each for each in examples if "service.client" in each]  # the others' clients have tests of their own
    monkeypatch.setenv("GENSERVE_URL", f"http://127.0.0.1:{shipped.port}")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert len(list((tmp_path / "sneakers").iterdir())) == 16
    assert (tmp_path / "grid.webp").read_bytes().startswith(BEGINNINGS[".webp"])
    assert "Completed(" in capsys.readouterr().out


def test_the_commands_run(shipped: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"^    genserve (.+)$", (ROOT / "docs" / "API.md").read_text(), flags=re.MULTILINE)
    monkeypatch.setenv("GENSERVE_URL", f"http://127.0.0.1:{shipped.port}")
    monkeypatch.chdir(tmp_path)
    assert {command.split()[0] for command in commands} == {"models", "generate", "film", "interpolate", "inspect"}
    assert [main(command.split()) for command in commands] == [0] * len(commands)
    for command in commands:
        if "-o" in command:
            file = Path(command.split()[-1])
            assert file.read_bytes().startswith(BEGINNINGS[file.suffix])


def check(words: list[str], answer: bytes, folder: Path) -> None:
    """What a command gave is of the kind that it asks for."""
    url = next(word for word in words if "127.0.0.1" in word)
    if "-w" in words:
        assert answer.startswith(b"/jobs/")
    elif "-o" in words:
        file = folder / words[words.index("-o") + 1]
        assert file.read_bytes().startswith(BEGINNINGS[file.suffix]), words
    elif "-N" in words:
        assert b"event: completed" in answer
    elif "-i" in words:
        assert answer.startswith(b"HTTP/1.1 20")
    elif "DELETE" in words:
        assert answer == b""
    elif url.endswith("/metrics"):
        assert answer.startswith(b"# HELP")
    else:
        json.loads(answer)


def test_the_example_answers_have_the_fields_of_real_ones(shipped: Service) -> None:
    text = (ROOT / "docs" / "API.md").read_text()
    examples = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)]
    accept = {"Accept": "application/json"}
    made = shipped.client.post("/generate/vae", json={"seed": 7, "class_label": "sneaker"}, headers=accept)
    job = shipped.client.post("/generate/ddpm", json={"n": 2, "seed": 7}, headers={"Prefer": "respond-async"})
    error = shipped.client.post("/generate/ddpm", json={"steps": 5000})
    assert [shape(each) for each in examples] == [shape(each.json()) for each in (made, job, error)]
    assert {**examples[2], "instance": "", "request_id": ""} == {**error.json(), "instance": "", "request_id": ""}


def shape(value: object) -> object:
    """``value`` with the types of its leaves: numbers are alike."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "number" if isinstance(value, int | float) else type(value).__name__
