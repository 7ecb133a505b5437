import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from service.contract.artifact import write_latents
from service.contract.manifest import write_manifest
from service.models.torchscript import load_model
from service.sampling.latent_map import pack, project
from tests.e2e.process import ROOT, Service, serving
from tests.service.artefacts import write_diffusion, write_one_shot

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WEIGHTS = ROOT / "weights"


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


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium; a test that wants it is skipped where it cannot be had."""
    from tests.e2e.browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def shipped() -> Iterator[Service]:
    """The shipped weights."""
    with serving(WEIGHTS, engine_threads=1) as running:
        yield running
        assert running.errors_logged() == []


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Tiny diffusers folders that read prompts: sd, with two LoRAs, and control, with a ControlNet."""
    pytest.importorskip("diffusers", reason="needs the diffusers extra")
    from tests.service.models.diffusers.tiny import write_folder, write_lora

    weights = tmp_path_factory.mktemp("prompted") / "weights"
    for name in ("sd", "control"):
        write_folder(weights / name, name)
    write_lora(weights / "sd", "ink", 1)
    write_lora(weights / "sd", "oil", 2)
    with serving(weights, engine_threads=1) as running:
        yield running
        assert running.errors_logged() == []


@pytest.fixture(scope="session")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The shipped ddpm, and the vae with a latent map of the committed sample of its data set."""
    from trainer.data import load_fashion_mnist, to_unit_range

    weights = tmp_path_factory.mktemp("mapped") / "weights"
    for name in ("ddpm", "vae"):
        shutil.copytree(WEIGHTS / name, weights / name)
    model = load_model(weights / "vae", torch.device("cpu"))
    assert model.encode is not None
    sample = load_fashion_mnist(ROOT / "tests" / "data" / "fashion-mnist")
    with torch.inference_mode():
        codes, _ = model.encode(to_unit_range(sample.images), {"label": sample.labels})
    latents = write_latents(weights / "vae", pack(project(codes.numpy(), sample.labels.numpy())))
    write_manifest(weights / "vae", model.manifest.model_copy(update={"latents": latents}))
    with serving(weights, engine_threads=1) as running:
        yield running
        assert running.errors_logged() == []
