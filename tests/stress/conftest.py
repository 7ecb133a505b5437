from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import Service, serving
from tests.service.artefacts import write_diffusion, write_one_shot


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-shot model, vae, and a diffusion, ddpm."""
    folder = tmp_path_factory.mktemp("stress") / "weights"
    write_one_shot(folder)
    write_diffusion(folder)
    return folder


@pytest.fixture
def service(weights: Path) -> Iterator[Service]:
    """A process of the test's own, whose queue refuses no request, also on a busy machine."""
    with serving(
        weights, engine_threads=1, max_bucket=8, max_queue_ms=1e9, max_lag_ms=1e9, request_timeout_s=3600
    ) as running:
        yield running
