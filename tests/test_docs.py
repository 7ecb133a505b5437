"""Documents agree with the code: links resolve, commands parse, and metrics and error codes are complete."""

import re
import shlex
from pathlib import Path

import pytest

from service.change_errors import ChangeError
from service.errors import ServiceError
from service.metrics import Metrics
from tests.test_layers import LAYERS
from trainer.__main__ import parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "runs", "build", ".git"} & set(path.parts))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_are_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", document.read_text())
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert missing == []


def trainer_commands() -> list[str]:
    """The trainer commands in the documents, without comments and without templates (words in capitals)."""
    found = [each for path in DOCUMENTS for each in re.findall(r"-m trainer ([^`#\n|]+)", path.read_text())]
    bare = {re.sub(r"(\s{2,}| -->).*", "", each).strip() for each in found}
    return sorted(each for each in bare if not re.search(r"\b[A-Z]{3,}\b|--help", each))


def test_commands_of_the_trainer_parse() -> None:
    assert len(trainer_commands()) > 10
    for command in trainer_commands():
        words = shlex.split(command)
        if len(words) > 1:
            parser().parse_args(words)  # exits if it is not valid


def test_every_metric_is_documented() -> None:
    named = set(re.findall(r"`(genserve_\w+)`", (ROOT / "docs" / "OPERATIONS.md").read_text()))
    metrics = Metrics().registry.collect()
    exposed = {metric.name + ("_total" if metric.type == "counter" else "") for metric in metrics}
    exposed = {name for name in exposed if not name.startswith("process_")}  # every client of Prometheus has these
    assert named == exposed


def test_the_table_of_layers_is_that_of_the_tests() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text.partition("| row | folder or file |")[2], flags=re.MULTILINE)
    layers: dict[int, set[str]] = {}
    for row, units in rows:
        layers.setdefault(int(row), set()).update(re.findall(r"`(\w+)(?:/|\.py)`", units))
    assert layers == dict(enumerate(LAYERS["service"], start=1))


def test_every_error_code_is_documented() -> None:
    named = set(re.findall(r"^\| \d{3} \| `([a-z-]+)`", (ROOT / "docs" / "API.md").read_text(), flags=re.MULTILINE))
    assert named == set(ServiceError.codes())


def test_every_error_of_the_admin_port_is_documented() -> None:
    text = (ROOT / "docs" / "API.md").read_text()
    part = text[text.index("## The admin port") : text.index("## Errors")]
    assert {kind.code for kind in ChangeError.__subclasses__()} <= set(re.findall(r"`([a-z-]+)`", part))


@pytest.mark.parametrize("name", ["README.md", "docker-compose.gpu.yml", "docs/OPERATIONS.md"])
def test_gpu_support_is_labelled_until_a_gpu_was_measured(name: str) -> None:
    measured = (ROOT / "benchmarks" / "results" / "gpu.json").exists()
    assert ("not yet run on a GPU" in (ROOT / name).read_text()) != measured
