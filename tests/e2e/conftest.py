import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import Service, serving
from tests.service.artefacts import write_diffusion, write_one_shot


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-shot model, vae, and a diffusion, ddpm."""
    weights = tmp_path_factory.mktemp("e2e") / "weights"
    write_one_shot(weights)
    write_diffusion(weights)
    return weights


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    """One process for the tests that only ask it, whose queue takes everything."""
    with serving(tiny_weights, engine_threads=1, max_bucket=8, max_queue_ms=1e9) as running:
        yield running
        running.stop(signal.SIGTERM)
        assert running.errors_logged() == []
