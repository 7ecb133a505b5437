import pytest
import torch
from torch import nn

from benchmarks.peers.training import nearest
from benchmarks.train import Speed, summarise


def test_ratios_are_of_the_same_round() -> None:
    rounds = [
        {"bare": Speed(100, 10), "ours": Speed(90, 10)},
        {"bare": Speed(50, 10), "ours": Speed(30, 10)},  # the machine was busy
        {"bare": Speed(200, 10), "ours": Speed(190, 10)},
    ]
    ours = summarise(rounds)["ours"]
    assert (ours.images_per_s, ours.least, ours.greatest, ours.parameters) == (90, 30, 190, 10)
    assert ours.of_bare == pytest.approx(0.9)
    assert summarise(rounds)["bare"].of_bare == 1.0


def test_the_nearest_width_is_taken_and_built_with_weights() -> None:
    network = nearest(lambda width: nn.Linear(width, width, bias=False), 103 * 103)
    assert [weight.shape for weight in network.parameters()] == [(104, 104)]
    assert next(network.parameters()).device == torch.device("cpu")
