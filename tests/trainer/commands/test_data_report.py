"""Messages about a folder before a training starts."""

import dataclasses

import pytest
import torch

from tests.trainer.conftest import MakeConfig
from trainer.commands.data_report import describe, few_steps, poor_data
from trainer.data import DataFacts, ImageData, Remark
from trainer.run.schedule import Plan


def folder(**counts: int) -> ImageData:
    """So many pictures of each class; ``_`` for a folder without classes."""
    names = () if "_" in counts else tuple(counts)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(list(counts.values())))
    facts = DataFacts("folder", (1, 28, 28), names, "the owner's", "photos", len(labels))
    return ImageData(facts, torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8), labels, "pictures from photos")


def too_few(make_config: MakeConfig, data: ImageData, epochs: int) -> list[str]:
    """What is said of that many epochs in batches of 64."""
    per_epoch = len(data.images) // 64
    return list(few_steps(make_config("ddpm", dataset="folder"), Plan(total=epochs * per_epoch, per_epoch=per_epoch)))


def test_classes_and_what_is_missing_are_counted() -> None:
    remarks = (
        Remark("unreadable files, left out", ("a.png",)),
        Remark("files with other extensions, left out", ("b",), False),
    )
    data = dataclasses.replace(folder(cat=3, dog=2), remarks=remarks)
    assert list(describe(data)) == [
        "data: pictures from photos",
        "classes, in the order of their labels: cat (3), dog (2)",
        "warning: unreadable files, left out (1): a.png",
        "note: files with other extensions, left out (1): b",
    ]
    many = folder(**{f"c{index}": 1 for index in range(25)})
    assert list(describe(many))[1].endswith("c19 (1) and 5 more")
    assert list(describe(folder(_=9))) == ["data: pictures from photos"]


def test_far_too_few_steps_are_reported_with_a_sensible_number(make_config: MakeConfig) -> None:
    data = folder(cat=600, dog=600)
    (few,) = too_few(make_config, data, epochs=1)
    assert few == (
        "18 steps are far too few: the preset ddpm takes 18,740 (20 epochs of 60,000 images in batches of 64); "
        "--epochs 1042 gives the same number here"
    )
    assert too_few(make_config, data, epochs=1042) == []


@pytest.mark.parametrize(
    ("counts", "complaint"),
    [
        ({"cat": 400, "dog": 400}, "800 images are few"),
        ({"cat": 2000}, "cat is the only class"),
        ({"cat": 2000, "dog": 100}, "unbalanced: dog has 100 images, cat has 2,000"),
    ],
)
def test_what_makes_poor_pictures_is_reported(counts: dict[str, int], complaint: str) -> None:
    (warning,) = poor_data(folder(**counts))
    assert complaint in warning


@pytest.mark.parametrize("counts", [{"_": 2000}, {"cat": 2000, "dog": 200}, {"1": 700, "2": 700}])
def test_a_sensible_folder_gets_no_warning(counts: dict[str, int]) -> None:
    assert list(poor_data(folder(**counts))) == []
