from pathlib import Path

import pytest

from benchmarks.widths import Network, cost, evaluation, training
from trainer.__main__ import parser
from trainer.config import load_preset

NETWORK = Network(patch=4, width=8)


@pytest.mark.parametrize("preset", ["ddpm", "gan", "vae"])
def test_a_network_is_trained_for_a_number_of_steps(preset: str) -> None:
    options = parser().parse_args(training(preset, 32, NETWORK, 7, Path("runs/x")))
    assert (options.preset, options.image_size, options.channels) == (preset, 32, 3)
    assert (options.patch, options.width, options.steps) == (*NETWORK, 7)


def test_a_run_is_scored_against_training_images() -> None:
    options = parser().parse_args(evaluation(Path("runs/x"), Path("runs/evaluator")))
    assert (options.target, options.evaluator, options.against) == (Path("runs/x"), Path("runs/evaluator"), "train")


def test_a_wider_network_has_more_parameters() -> None:
    sizes = [cost(load_preset("vae", dataset="cifar10", batch_size=2, patch=4, width=width))[0] for width in (4, 8)]
    assert 0 < sizes[0] < sizes[1]
