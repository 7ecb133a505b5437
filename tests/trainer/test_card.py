from pathlib import Path

import pytest

from service.contract.manifest import read_manifest
from tests.trainer.conftest import MakeConfig
from trainer.card import render

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.mark.parametrize(
    ("variant", "without", "told"),
    [
        ("vae-adversarial", "vae", "whose gradient had 0.5 times the size of that of the model's own loss."),
        ("ddpm-guided", "ddpm", "It includes guidance of scale 3 at times up to 0.5"),
        ("ldm", "ddpm", "2-channel maps of\n1/4 of the picture's height"),
    ],
)
def test_it_names_what_the_model_was_trained_with(
    make_config: MakeConfig, variant: str, without: str, told: str
) -> None:
    manifest = read_manifest(WEIGHTS / "vae")
    assert told in render(manifest, make_config(variant))
    assert told not in render(manifest, make_config(without))


@pytest.mark.parametrize(
    ("epochs", "told"), [(1.0, "in 1 epoch of"), (2.5, "in 2.5 epochs of"), (20.0, "in 20 epochs of")]
)
def test_it_counts_epochs(make_config: MakeConfig, epochs: float, told: str) -> None:
    manifest = read_manifest(WEIGHTS / "vae")
    training = manifest.made_by.model_copy(update={"epochs": epochs})
    assert told in render(manifest.model_copy(update={"training": training}), make_config("vae"))
