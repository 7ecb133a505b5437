"""CelebA: 202,599 aligned photos of faces, cut to centred squares of 64 pixels.

Its forty attributes are not exclusive classes, so a model of CelebA is unconditional.
"""

from pathlib import Path

import torch

from trainer.data.images import DOWNLOAD_FOLDER, FETCH_AGAIN, DataError, DataFacts, ImageData, require_none, split_name
from trainer.data.pictures import read_pictures
from trainer.vision import datasets

SOURCE = "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
SIZE = 64


def load_celeba(data_dir: Path | None = None, *, train: bool = True, strict: bool = False) -> ImageData:
    """Read CelebA from ``data_dir``: the folder celeba in torchvision's layout, or its parent.

    The MD5 of the lists is checked; for the photos none is published. Unreadable photos are left out and reported, or
    rejected when ``strict``. Raises DataError.
    """
    root = _root(data_dir)
    folder = root / datasets.CelebA.base_folder
    _require_published(folder)
    split = datasets.CelebA(str(root), split="train" if train else "test", target_type=[], download=False)
    photos = folder / "img_align_celeba"
    paths = [photos / name for name in split.filename]
    pictures = read_pictures(paths, SIZE, 3, photos)
    if strict:
        require_none(pictures.remarks, folder)
    if not len(pictures.images):
        raise DataError(f"{folder}: none of {len(paths):,} {split_name(train)} images can be read: {FETCH_AGAIN}")
    facts = DataFacts("celeba", (3, SIZE, SIZE), (), "for non-commercial research only", SOURCE, len(pictures.images))
    provenance = f"{len(pictures.images):,} {split_name(train)} images from {folder}"
    labels = torch.zeros(len(pictures.images), dtype=torch.int64)
    return ImageData(facts, pictures.images, labels, provenance, pictures.remarks)


def _root(data_dir: Path | None) -> Path:
    if data_dir is None:
        return DOWNLOAD_FOLDER
    return data_dir.parent if data_dir.name == datasets.CelebA.base_folder else data_dir


def _require_published(folder: Path) -> None:
    lists = {name: md5 for _, md5, name in datasets.CelebA.file_list if name.endswith(".txt")}
    missing = [name for name in lists if not (folder / name).is_file()]
    missing += [] if (folder / "img_align_celeba").is_dir() else ["img_align_celeba"]
    if missing:
        raise DataError(
            f"no CelebA in {folder}: {', '.join(missing)} missing. Its licence requires a manual download: {SOURCE}. "
            "Put the folder of aligned photos and the lists into a folder celeba and name it with --data-dir"
        )
    for name, md5 in lists.items():
        if not datasets.utils.check_integrity(str(folder / name), md5):
            raise DataError(f"{folder / name} is not the published file: {FETCH_AGAIN}")
