import dataclasses

import pytest
import torch

from trainer.data import DataError, ImageData
from trainer.evaluate import classifier
from trainer.evaluate.classifier import FEATURES, Classifier, accuracy, augment, train_classifier

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


def test_a_set_without_classes_is_refused(train: ImageData) -> None:
    facts = dataclasses.replace(train.facts, name="folder", class_names=())
    with pytest.raises(DataError, match="folder has no classes"):
        train_classifier(dataclasses.replace(train, facts=facts), epochs=1, seed=0, device=CPU)


def test_augmentation_shifts_by_a_pixel_and_greys_a_patch_but_never_mirrors() -> None:
    torch.manual_seed(0)
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
