import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer import data as data_module
from trainer import vision
from trainer.data import CLASS_NAMES, DEBIAN_FOLDER, PUBLISHED, DataError, load_fashion_mnist, to_unit_range

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.fixture
def folder(sample_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_folder, tmp_path / "sample"))


def test_the_committed_sample_is_read(sample_folder: Path) -> None:
    train, test = load_fashion_mnist(sample_folder), load_fashion_mnist(sample_folder, train=False)
    assert (train.images.shape, test.images.shape) == ((2000, 1, 28, 28), (500, 1, 28, 28))
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    assert set(train.labels.tolist()) == set(range(len(CLASS_NAMES)))
    assert train.facts.image_shape == (1, 28, 28) == train.images.shape[1:]
    assert train.provenance == (
        f"2,000 training images from {sample_folder} (not the published files: a subset or another edition)"
    )


@pytest.mark.parametrize("inside", [".", "FashionMNIST/raw"])
def test_unpacked_files_are_read_from_the_folder_or_where_torchvision_puts_them(
    folder: Path, tmp_path: Path, inside: str
) -> None:
    packed = load_fashion_mnist(folder)
    target = tmp_path / "plain" / inside
    target.mkdir(parents=True)
    for name in PUBLISHED:
        (target / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    plain = load_fashion_mnist(tmp_path / "plain")
    assert torch.equal(plain.images, packed.images)
    assert torch.equal(plain.labels, packed.labels)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_published_files_are_found_and_known() -> None:
    data = load_fashion_mnist()
    assert data.provenance == f"60,000 training images from {DEBIAN_FOLDER} (the published files)"


@pytest.mark.parametrize(
    ("file", "damage", "complaint"),
    [
        (IMAGES, lambda content: content[: len(content) // 2], "cannot be unpacked"),
        (IMAGES, lambda content: content[:1000] + bytes(200) + content[1200:], "cannot be unpacked"),
        (IMAGES, lambda _: b"<html>not found</html>", "cannot be unpacked"),
        (IMAGES, lambda _: b"", "readable idx files"),
        (IMAGES, lambda content: gzip.compress(gzip.decompress(content)[:-1]), "readable idx files"),
        (IMAGES, lambda content: gzip.compress(bytes(4) + gzip.decompress(content)[4:]), "readable idx files"),
        (LABELS, lambda content: gzip.compress(gzip.decompress(content)[:-1] + b"\x0a"), "run from 0 to 10"),
        (LABELS, lambda _: gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x09"), "2000 images and 1 labels"),
    ],
    ids=["cut", "flipped", "html", "empty", "short", "header", "label", "count"],
)
def test_damaged_files_are_refused(folder: Path, file: str, damage: Callable[[bytes], bytes], complaint: str) -> None:
    path = folder / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=complaint) as refusal:
        load_fashion_mnist(folder)
    assert str(folder) in str(refusal.value)


def test_a_folder_without_the_files_is_refused_by_what_is_wanted(folder: Path) -> None:
    (folder / LABELS).unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte, .* each plain or .gz"):
        load_fashion_mnist(folder)


def test_without_any_source_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(root: str, download: bool) -> None:
        raise OSError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_module, "DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(vision.datasets, "FashionMNIST", offline)
    with pytest.raises(DataError, match=r"no network.*dataset-fashion-mnist.*--data-dir"):
        load_fashion_mnist()


def test_bytes_become_the_unit_range() -> None:
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    assert to_unit_range(levels).flatten().tolist() == pytest.approx([-1.0, -0.6, 1.0], abs=1e-6)
    assert levels.flatten().tolist() == [0, 51, 255]
