import dataclasses

import pytest
import torch
from torch import Tensor, nn

from trainer.data import ImageData
from trainer.evaluate import classifier
from trainer.evaluate.classifier import (
    FEATURES,
    Classifier,
    accuracy,
    augment,
    chance,
    default_epochs,
    train_classifier,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_it_builds_itself_from_the_shape(shape: tuple[int, int, int]) -> None:
    network = Classifier(shape, 7).eval()
    images = torch.rand(2, *shape) * 2 - 1
    features, logits = network(images)
    assert (features.shape, logits.shape) == ((2, FEATURES), (2, 7))
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(images), (features, logits))


def test_it_learns_and_the_seed_decides_what(train: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "BATCH_SIZE", 16)
    subset = dataclasses.replace(train, images=train.images[:240], labels=train.labels[:240])
    network = train_classifier(subset, epochs=3, seed=1, device=CPU)
    assert not network.training
    assert accuracy(network, subset) > 0.3  # by chance: 0.1
    few = dataclasses.replace(train, images=train.images[:32], labels=train.labels[:32])
    first, again, other = (train_classifier(few, epochs=1, seed=seed, device=CPU) for seed in (1, 1, 2))
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize("names", [(), ("shoes",)])
def test_without_two_classes_it_learns_quarter_turns(
    train: ImageData, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    monkeypatch.setattr(classifier, "BATCH_SIZE", 16)
    facts = dataclasses.replace(train.facts, class_names=names)
    subset = dataclasses.replace(train, facts=facts, images=train.images[:240], labels=torch.zeros(240).long())
    network = train_classifier(subset, epochs=3, seed=1, device=CPU)
    assert network.head.out_features == 4
    assert accuracy(network, subset) > 0.5  # by chance: 0.25
    assert chance(subset) == 0.25


def test_accuracy_is_of_all_four_turns(train: ImageData) -> None:
    """Real clothes stand upright, so who always says so is right in one turn of four."""

    class Upright(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nothing = nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, torch.eye(4)[torch.zeros(len(images)).long()]

    assert accuracy(Upright(), train.without_classes()) == 0.25


def test_few_pictures_are_seen_in_more_epochs(train: ImageData) -> None:
    assert (default_epochs(60_000), default_epochs(270), default_epochs(10)) == (14, 300, 600)
    uneven = dataclasses.replace(train, labels=torch.tensor([0] * 900 + [1] * 300))
    assert chance(uneven) == 0.75


def test_augmentation_shifts_by_a_pixel_and_greys_a_patch_but_never_mirrors() -> None:
    images = torch.arange(1, 28 * 28 + 1).remainder(127).to(torch.uint8).view(1, 1, 28, 28).repeat(400, 1, 1, 1)
    found = augment(images)
    padded = torch.nn.functional.pad(images[0, 0], (1, 1, 1, 1))
    shifts = torch.stack([padded[y : y + 28, x : x + 28] for y in range(3) for x in range(3)])  # (9, H, W)
    patched = found[:, 0] == 128  # no pixel of these pictures is
    same = (found[:, 0, None] == shifts) | patched[:, None]
    assert same.all(dim=(2, 3)).any(1).all()
    assert {int(which) for which in same.all(dim=(2, 3)).int().argmax(1)} == set(range(9))
    assert 0.15 < patched.any(dim=(1, 2)).double().mean() < 0.35
    assert patched.any(2).sum(1).max() == 14  # half the height
    assert patched.any(2).sum(1)[patched.any(dim=(1, 2))].min() == 7
