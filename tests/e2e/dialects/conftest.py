import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.images import Pixels
from tests.e2e.process import Service, serving
from tests.service.api.conftest import NPY, load
from tests.service.models.diffusers.tiny import write_folder, write_lora


@pytest.fixture(scope="package")
def service(tiny_weights: Path) -> Iterator[Service]:
    """One process for all dialects."""
    with serving(tiny_weights, engine_threads=1, max_bucket=8, max_queue_ms=1e9) as running:
        yield running
        running.stop(signal.SIGTERM)
        assert running.errors_logged() == []


@pytest.fixture(scope="package")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A process with a tiny model with prompts, sd, that has a ControlNet and a LoRA."""
    weights = tmp_path_factory.mktemp("studio") / "weights"
    write_lora(write_folder(weights / "sd", "control"), "ink", seed=1)
    with serving(weights, engine_threads=1, max_bucket=8, max_queue_ms=1e9, max_request_ms=1e9) as running:
        yield running
        running.stop(signal.SIGTERM)
        assert running.errors_logged() == []


def native(service: Service, model: str, **fields: object) -> Pixels:
    """(n, height, width, channel) of the same request in the service's own words."""
    response = service.client.post(f"/generate/{model}", json=fields, headers=NPY)
    assert response.status_code == 200, response.text
    return load(response.content)
