"""schemathesis against the document that the service gives of itself: what it says is what it does."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import Service, serving
from tests.service.artefacts import write_autoencoder, write_diffusion

#: Names that random text would hardly hit, so that most requests be accepted; the others are errors to be found.
CONFIG = """
[dictionaries]
models = {{values = ["vae", "ddpm"]}}
versions = {{values = {versions}}}
prompts = {{values = ["", "0", "bag"]}}

[parameters]
"path.model" = {{dictionary = "models", probability = 0.9}}
"path.name" = {{dictionary = "models", probability = 0.9}}
"path.version" = {{dictionary = "versions", probability = 0.9}}
"body.model" = {{dictionary = "models", probability = 0.9}}
"body.prompt" = {{dictionary = "prompts", probability = 0.9}}

# A timeout of a millisecond is a valid field, and these are its documented answers.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]

# How many steps, which classes and which fields at all a picture may have depends on the model, and whether bytes are
# a picture on the bytes, and which id the last event of a job has on the job: no schema can say so.
[[operations]]
include-tag = ["images", "OpenAI", "Open Inference Protocol", "AUTOMATIC1111", "jobs"]
checks.positive_data_acceptance.enabled = false
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Models that can all there is to be asked for, and requests that are soon done."""
    weights = tmp_path_factory.mktemp("schemathesis") / "weights"
    write_autoencoder(weights)
    write_diffusion(weights)
    with serving(weights, engine_threads=1, max_bucket=8, max_queue_ms=1e9, max_images=4, max_steps=20) as running:
        yield running
        assert running.errors_logged() == []


def run(service: Service, folder: Path, *options: str) -> int:
    """How many requests schemathesis sent, none of which was answered against the document."""
    versions = [model["version"] for model in service.client.get("/models").json()]
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.format(versions=versions))
    address = f"http://127.0.0.1:{service.port}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", address, "--seed", "1"]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert generated, done.stdout
    assert generated[1] == generated[2]
    return int(generated[1])


def test_random_requests_are_answered_as_documented(service: Service, tmp_path: Path) -> None:
    assert run(service, tmp_path, "--phases", "examples,fuzzing,stateful", "--max-examples", "6") > 200


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_thousands_of_requests_in_all_phases(service: Service, tmp_path: Path) -> None:
    assert run(service, tmp_path, "--max-examples", "100") >= 5000
