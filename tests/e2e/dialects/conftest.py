import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.images import Pixels
from tests.e2e.process import Service, serving
from tests.service.api.conftest import NPY, load


@pytest.fixture(scope="package")
def service(tiny_weights: Path) -> Iterator[Service]:
    """One process for all dialects."""
    with serving(tiny_weights, engine_threads=1, max_bucket=8, max_queue_ms=1e9) as running:
        yield running
        running.stop(signal.SIGTERM)
        assert running.errors_logged() == []


def native(service: Service, model: str, **fields: object) -> Pixels:
    """(n, height, width, channel) of the same request in the service's own words."""
    response = service.client.post(f"/generate/{model}", json=fields, headers=NPY)
    assert response.status_code == 200, response.text
    return load(response.content)
