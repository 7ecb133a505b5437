from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from tests.service.artefacts import write_diffusion, write_one_shot


@pytest.fixture(scope="module")
def no_jitter() -> Iterator[None]:
    """Retry-After is the computed time, not a little more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.errors.spread", lambda least_s: least_s)
        yield


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights folder with a one-shot model, vae, and a diffusion, ddpm."""
    folder = tmp_path / "weights"
    write_one_shot(folder)
    write_diffusion(folder)
    return folder


@pytest.fixture
def settings(weights: Path) -> Settings:
    # Limits that depend on the speed of the machine are off; tests of these limits set them.
    return Settings(
        weights_dir=weights,
        device="cpu",
        engine_threads=2,
        max_bucket=8,
        access_log=False,
        max_request_ms=1e9,
        max_lag_ms=1e9,
    )
