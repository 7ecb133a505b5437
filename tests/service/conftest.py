from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from tests.service.artefacts import write_diffusion, write_one_shot


def settings_of(weights: Path, **more: object) -> Settings:
    """Settings without the limits that depend on the speed of the machine, which only their own tests set."""
    own: dict[str, object] = {
        "weights_dir": weights,
        "device": "cpu",
        "engine_threads": 1,
        "max_bucket": 8,
        "access_log": False,
        "max_queue_ms": 1e9,
        "max_request_ms": 1e9,
        "max_lag_ms": 1e9,
    }
    return Settings.model_validate(own | more)


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
    return settings_of(weights, engine_threads=2)
