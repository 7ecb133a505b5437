from pathlib import Path

import pytest

from trainer import data
from trainer.config import DatasetName
from trainer.data import DataError


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_a_data_set_is_found_by_its_name(sample_folder: Path, name: DatasetName) -> None:
    found = data.load(name, sample_folder, train=False, image_size=28, channels=1)
    assert (found.facts.name, len(found.images)) == (name, 500)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("cifar10", "no CIFAR-10"), ("celeba", "no CelebA"), ("folder", "the folder contains no image")],
)
def test_every_data_set_has_its_reader(tmp_path: Path, name: DatasetName, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        data.load(name, tmp_path, image_size=32, channels=3)


def test_a_folder_must_be_named() -> None:
    with pytest.raises(DataError, match="--data-dir"):
        data.load("folder", image_size=32, channels=3)
