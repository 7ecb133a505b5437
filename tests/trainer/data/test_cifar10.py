"""CIFAR-10 in its own format, made here: torchvision's reader with the hashes of these files for the published ones."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer import vision
from trainer.data import DataError
from trainer.data.cifar10 import load_cifar10

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


def write(path: Path, content: object) -> list[str]:
    """Pickle ``content`` as the authors did; returns the file's name and MD5, as torchvision lists them."""
    path.write_bytes(pickle.dumps(content, protocol=2))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


def batch(number: int) -> dict[str, object]:
    """Four pictures of one colour each: row r of batch b is (10 b + r, 100, 200), of class (b + r) mod 10."""
    planes = [[[10 * number + row] * 1024 + [100] * 1024 + [200] * 1024] for row in range(4)]
    return {"data": np.array(planes, dtype=np.uint8)[:, 0], "labels": [(number + row) % 10 for row in range(4)]}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    reader = vision.datasets.CIFAR10
    monkeypatch.setattr(reader, "train_list", [write(folder / name, batch(i)) for i, name in enumerate(BATCHES)])
    monkeypatch.setattr(reader, "test_list", [write(folder / "test_batch", batch(9))])
    name, md5 = write(folder / "batches.meta", {"label_names": NAMES})
    monkeypatch.setattr(reader, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return tmp_path


@pytest.mark.parametrize("inside", [".", "cifar-10-batches-py"])
def test_both_splits_are_read(root: Path, inside: str) -> None:
    train, test = load_cifar10(root / inside), load_cifar10(root / inside, train=False)
    assert (train.images.shape, train.images.dtype) == ((20, 3, 32, 32), torch.uint8)
    assert (test.images.shape, test.labels.tolist()) == ((4, 3, 32, 32), [9, 0, 1, 2])
    for picture, red in zip(train.images, [10 * b + r for b in range(5) for r in range(4)], strict=True):
        assert [plane.unique().tolist() for plane in picture] == [[red], [100], [200]]
    assert train.facts.class_names == tuple(NAMES)
    assert train.facts.image_shape == (3, 32, 32)
    assert train.provenance == f"20 training images from {root / 'cifar-10-batches-py'} (the published files)"


class Trap:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_file_that_is_not_the_published_one_is_not_unpickled(root: Path, name: str) -> None:
    path, trace = root / "cifar-10-batches-py" / name, root / "trace"
    path.write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(DataError, match=f"{name} is not the published file"):
        load_cifar10(root)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the trap does act where it is read
    assert trace.exists()


def test_a_missing_file_is_reported(root: Path) -> None:
    (root / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(DataError, match="data_batch_2 is missing"):
        load_cifar10(root)


def test_the_hashes_are_the_published_ones() -> None:
    reader = vision.datasets.CIFAR10
    assert len(reader.train_list) == 5
    assert reader.train_list[0][1] == "c99cafc152244af753f735de768cd75f"


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: object) -> None:
        raise OSError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vision.datasets.CIFAR10, "download", offline)
    with pytest.raises(DataError, match=r"no network.*cifar-10-python.tar.gz.*--data-dir"):
        load_cifar10()
