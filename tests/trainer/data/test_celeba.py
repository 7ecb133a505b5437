"""CelebA in its own format, made here: torchvision's reader with the hashes of these lists for the published ones."""

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer import vision
from trainer.data import DataError
from trainer.data.celeba import load_celeba

#: Split of each photo, as list_eval_partition.txt has it: 0 training, 1 validation, 2 test.
SPLITS = [0, 0, 0, 1, 2, 2]
NAMES = [f"{number:06d}.jpg" for number in range(1, len(SPLITS) + 1)]


def lists() -> dict[str, str]:
    def table(values: str, *head: str) -> str:
        return "\n".join([*head, *(f"{name} {values}" for name in NAMES)]) + "\n"

    return {
        "list_eval_partition.txt": "".join(f"{name} {split}\n" for name, split in zip(NAMES, SPLITS, strict=True)),
        "identity_CelebA.txt": table("7"),
        "list_attr_celeba.txt": table(" 1 -1", str(len(NAMES)), "Male Smiling"),
        "list_bbox_celeba.txt": table("1 2 3 4", str(len(NAMES)), "image_id x_1 y_1 width height"),
        "list_landmarks_align_celeba.txt": table(" ".join("1" * 10), str(len(NAMES)), "lefteye_x lefteye_y"),
    }


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    photos = tmp_path / "celeba" / "img_align_celeba"
    photos.mkdir(parents=True)
    for index, name in enumerate(NAMES):
        Image.new("RGB", (178, 218), (40 * index, 100, 200)).save(photos / name, quality=95)
    published = []
    for name, text in lists().items():
        (tmp_path / "celeba" / name).write_text(text)
        published.append(("", hashlib.md5(text.encode()).hexdigest(), name))
    monkeypatch.setattr(vision.datasets.CelebA, "file_list", published)
    return tmp_path


@pytest.mark.parametrize("inside", [".", "celeba"])
def test_both_splits_are_read_as_squares_without_classes(root: Path, inside: str) -> None:
    train, test = load_celeba(root / inside), load_celeba(root / inside, train=False)
    assert (train.images.shape, train.images.dtype) == ((3, 3, 64, 64), torch.uint8)
    assert train.images[:, 0].float().mean(dim=(1, 2)).tolist() == pytest.approx([0, 40, 80], abs=2)
    assert test.images[:, 0].float().mean(dim=(1, 2)).tolist() == pytest.approx([160, 200], abs=2)
    assert (train.facts.class_names, train.labels.tolist()) == ((), [0, 0, 0])
    assert train.facts.images == 3


def test_a_broken_photo_is_left_out_or_refused(root: Path) -> None:
    (root / "celeba" / "img_align_celeba" / NAMES[1]).write_bytes(b"nothing")
    data = load_celeba(root)
    assert len(data.images) == data.facts.images == 2
    assert list(map(str, data.remarks)) == [f"unreadable files, left out (1): {NAMES[1]} (not an image)"]
    with pytest.raises(DataError, match=f"--strict.*{NAMES[1]}"):
        load_celeba(root, strict=True)


def test_without_readable_photos_it_is_refused(root: Path) -> None:
    for name in NAMES:
        (root / "celeba" / "img_align_celeba" / name).unlink()
    with pytest.raises(DataError, match="none of 3 training images"):
        load_celeba(root)


def test_an_altered_list_is_refused(root: Path) -> None:
    (root / "celeba" / "list_attr_celeba.txt").write_text("6\nMale\n")
    with pytest.raises(DataError, match=r"list_attr_celeba.txt is not the published file"):
        load_celeba(root)


def test_what_is_missing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list_eval_partition.txt, img_align_celeba missing.*manual download"):
        load_celeba(tmp_path)
