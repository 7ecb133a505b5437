import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer import vision
from trainer.data import DataError, ImageData, mnist
from trainer.data.mnist import CLASS_NAMES, DEBIAN_FOLDER, DIGITS, FASHION, FILES, load_fashion_mnist, load_mnist

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
Load = Callable[..., ImageData]


@pytest.fixture
def folder(sample_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_folder, tmp_path / "sample"))


@pytest.mark.parametrize(
    ("load", "name", "names"), [(load_fashion_mnist, "fashion-mnist", CLASS_NAMES), (load_mnist, "mnist", "0123456789")]
)
def test_the_committed_sample_is_read(sample_folder: Path, load: Load, name: str, names: tuple[str, ...]) -> None:
    train, test = load(sample_folder), load(sample_folder, train=False)
    assert (train.images.shape, test.images.shape) == ((2000, 1, 28, 28), (500, 1, 28, 28))
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    assert set(train.labels.tolist()) == set(range(10))
    assert (train.facts.name, train.facts.class_names) == (name, tuple(names))
    assert train.facts.image_shape == (1, 28, 28) == train.images.shape[1:]
    kind = "not the published files, but a subset or another edition"
    assert train.provenance == f"2,000 training images from {sample_folder} ({kind})"
    assert test.provenance == f"500 test images from {sample_folder} ({kind})"


@pytest.mark.parametrize(("load", "reader"), [(load_fashion_mnist, "FashionMNIST"), (load_mnist, "MNIST")])
@pytest.mark.parametrize("torchvisions", [False, True], ids=["as they are", "as torchvision lays them out"])
def test_unpacked_files_are_read(folder: Path, tmp_path: Path, load: Load, reader: str, torchvisions: bool) -> None:
    packed = load(folder)
    target = tmp_path / "plain" / (f"{reader}/raw" if torchvisions else ".")
    target.mkdir(parents=True)
    for name in FILES:
        (target / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    plain = load(tmp_path / "plain")
    assert torch.equal(plain.images, packed.images)
    assert torch.equal(plain.labels, packed.labels)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_published_files_are_found_and_known() -> None:
    data = load_fashion_mnist()
    assert data.provenance == f"60,000 training images from {DEBIAN_FOLDER} (the published files)"


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_one_data_set_is_not_taken_for_the_published_other() -> None:
    assert "not the published files" in load_mnist(DEBIAN_FOLDER).provenance


@pytest.mark.parametrize(
    ("file", "damage", "complaint"),
    [
        (IMAGES, lambda content: content[: len(content) // 2], "cannot be decompressed"),
        (IMAGES, lambda content: content[:1000] + bytes(200) + content[1200:], "cannot be decompressed"),
        (IMAGES, lambda _: b"<html>not found</html>", "cannot be decompressed"),
        (IMAGES, lambda _: b"", "readable idx files"),
        (IMAGES, lambda content: gzip.compress(gzip.decompress(content)[:-1]), "readable idx files"),
        (IMAGES, lambda content: gzip.compress(bytes(4) + gzip.decompress(content)[4:]), "readable idx files"),
        (IMAGES, lambda _: gzip.compress(b"\0\0\x0d\x03" + bytes([0, 0, 0, 1] * 3) + bytes(4)), "readable idx files"),
        (LABELS, lambda content: gzip.compress(gzip.decompress(content)[:-1] + b"\x0a"), "labels are 0 to 10"),
        (LABELS, lambda _: gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x09"), "2000 images and 1 labels"),
    ],
    ids=["cut", "flipped", "html", "empty", "short", "header", "float", "label", "count"],
)
def test_damaged_files_are_refused(folder: Path, file: str, damage: Callable[[bytes], bytes], complaint: str) -> None:
    path = folder / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=complaint) as refusal:
        load_fashion_mnist(folder)
    assert str(folder) in str(refusal.value)


def test_a_compressed_file_of_too_many_bytes_is_not_decompressed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "MOST_BYTES", 1 << 20)  # the sample's training images are 1.5 MB
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz contains more than 1,048,576 bytes"):
        load_fashion_mnist(folder)


def test_a_folder_without_the_files_is_rejected_with_the_needed_names(folder: Path) -> None:
    (folder / LABELS).unlink()
    with pytest.raises(DataError, match=r"no MNIST in .*train-labels-idx1-ubyte, .* each plain or .gz"):
        load_mnist(folder)


@pytest.mark.parametrize(
    ("load", "suggestion"), [(load_fashion_mnist, "Install Debian's dataset-f"), (load_mnist, "Name")]
)
def test_without_any_source_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Load, suggestion: str
) -> None:
    def offline(root: str, download: bool) -> None:
        raise OSError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mnist, "FASHION", replace(FASHION, package=("dataset-fashion-mnist", tmp_path / "absent")))
    monkeypatch.setattr(vision.datasets, "FashionMNIST", offline)
    monkeypatch.setattr(vision.datasets, "MNIST", offline)
    with pytest.raises(DataError, match=rf"no network.*{suggestion}.*--data-dir"):
        load()


def test_the_editions_have_hashes_of_their_own() -> None:
    digests = [*FASHION.published.values(), *DIGITS.published.values()]
    assert len(set(digests)) == 8
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)
