"""What people are told of their folder before a training begins."""

import dataclasses

import pytest
import torch

from tests.trainer.conftest import MakeConfig
from trainer.advice import before_training, describe
from trainer.data import DataFacts, ImageData, Remark


def folder(**counts: int) -> ImageData:
    """So many pictures of each class; ``_`` for a folder without classes."""
    names = () if "_" in counts else tuple(counts)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(list(counts.values())))
    facts = DataFacts("folder", (1, 28, 28), names, "the owner's", "photos", len(labels))
    return ImageData(facts, torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8), labels, "pictures from photos")


def warnings(make_config: MakeConfig, data: ImageData, **options: object) -> list[str]:
    """Those of a run of 20,000 steps, unless told otherwise."""
    config = make_config("ddpm", **({"dataset": "folder", "epochs": 20_000, "batch_size": len(data.images)} | options))
    lines = list(before_training(config, data))
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def test_classes_and_what_is_missing_are_counted() -> None:
    remarks = (
        Remark("files left out as unreadable", ("a.png",)),
        Remark("files left out for their endings", ("b",), False),
    )
    data = dataclasses.replace(folder(cat=3, dog=2), remarks=remarks)
    assert list(describe(data)) == [
        "data: pictures from photos",
        "classes, in the order of their labels: cat (3), dog (2)",
        "warning: files left out as unreadable (1): a.png",
        "note: files left out for their endings (1): b",
    ]
    many = folder(**{f"c{index}": 1 for index in range(25)})
    assert list(describe(many))[1].endswith("c19 (1) and 5 more")
    assert list(describe(folder(_=9))) == ["data: pictures from photos"]


def test_far_too_few_steps_are_told_with_the_number_that_is_sensible(make_config: MakeConfig) -> None:
    data = folder(cat=600, dog=600)
    (few,) = warnings(make_config, data, epochs=1, batch_size=64)
    assert few == (
        "18 steps are far too few: the preset ddpm takes 18,740 (20 epochs of 60,000 pictures in batches of 64); "
        "--epochs 1042 would give as many here"
    )
    assert warnings(make_config, data, epochs=1042, batch_size=64) == []
    config = make_config("ddpm", dataset="folder", epochs=1, batch_size=64)
    lines = list(before_training(config, data, resumed=True))
    assert lines[-1] == "training: 18 steps an epoch in batches of 64, 18 steps in all"


def test_less_than_a_batch_is_left_to_the_run(make_config: MakeConfig) -> None:
    config = make_config("ddpm", dataset="folder", batch_size=64)
    assert "training: 0 steps an epoch" in "\n".join(before_training(config, folder(cat=10, dog=10)))


@pytest.mark.parametrize(
    ("counts", "complaint"),
    [
        ({"cat": 400, "dog": 400}, "800 pictures are few"),
        ({"cat": 2000}, "cat is the only class"),
        ({"cat": 2000, "dog": 100}, "unbalanced: dog has 100 pictures, cat has 2,000"),
        ({"1": 700, "2": 700}, "the class named 1 has the label 0"),
    ],
)
def test_what_makes_poor_pictures_is_told(make_config: MakeConfig, counts: dict[str, int], complaint: str) -> None:
    (warning,) = warnings(make_config, folder(**counts))
    assert complaint in warning


@pytest.mark.parametrize("counts", [{"_": 2000}, {"cat": 2000, "dog": 200}, {"0": 700, "1": 700}])
def test_a_sensible_folder_is_left_alone(make_config: MakeConfig, counts: dict[str, int]) -> None:
    assert warnings(make_config, folder(**counts)) == []


def test_published_pictures_need_no_advice(make_config: MakeConfig, data: ImageData) -> None:
    lines = list(before_training(make_config("vae"), data))
    assert [line.split(":")[0] for line in lines] == ["data", "training"]
