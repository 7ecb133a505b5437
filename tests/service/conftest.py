from pathlib import Path

import pytest

from service.settings import Settings
from tests.service.artefacts import write_diffusion, write_one_shot


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights folder with a one-shot model, vae, and a diffusion, ddpm."""
    folder = tmp_path / "weights"
    write_one_shot(folder)
    write_diffusion(folder)
    return folder


@pytest.fixture
def settings(weights: Path) -> Settings:
    # However slow the machine: what one request may take is only tested where it is set.
    return Settings(
        weights_dir=weights, device="cpu", engine_threads=2, max_bucket=8, access_log=False, max_request_ms=1e9
    )
