import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from trainer.data import DataError, ImageData, load
from trainer.data.captioned_folder import LONGEST, load_captioned_folder

COUNT = 12


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures, three of them in a sub-folder, of twelve greys."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(COUNT):
        Image.new("RGB", (64, 64), (20 * number,) * 3).save(folder / name_of(number))
    return folder


def name_of(number: int) -> str:
    return f"more/{number:02}.png" if number > 8 else f"{number:02}.png"


def write_jsonl(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows() -> list[dict[str, object]]:
    return [{"file_name": name_of(number), "text": f"grey {number}"} for number in range(COUNT)]


def both(folder: Path, **options: bool) -> tuple[ImageData, ImageData]:
    return (
        load_captioned_folder(folder, size=32, channels=3, train=True, **options),
        load_captioned_folder(folder, size=32, channels=3, train=False, **options),
    )


def captions(data: ImageData) -> dict[int, str]:
    """The caption of each picture, by its grey level."""
    assert data.captions is not None
    return dict(zip(data.images[:, 0, 0, 0].tolist(), data.captions.names, strict=True))


def remarks(data: ImageData) -> str:
    return "; ".join(map(str, data.remarks))


def test_jsonl_captions_belong_to_their_pictures_in_both_splits(photos: Path) -> None:
    write_jsonl(photos, rows()[::-1])
    train, test = both(photos)
    assert (len(train.images), len(test.images)) == (11, 1)
    assert captions(train) | captions(test) == {20 * number: f"grey {number}" for number in range(COUNT)}
    assert train.captions is not None
    assert test.captions is not None
    assert (set(train.captions.groups), set(test.captions.groups)) == ({"training"}, {"held-out"})
    assert len(set(train.captions.concepts.tolist())) == 11
    assert train.null_label == 11
    assert not remarks(train)


def test_csv_says_the_same(photos: Path) -> None:
    with (photos / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "file_name"])
        writer.writeheader()
        writer.writerows(rows())
    train, test = both(photos)
    assert captions(train) | captions(test) == {20 * number: f"grey {number}" for number in range(COUNT)}


def test_text_files_beside_the_pictures_say_the_same(photos: Path) -> None:
    for number in range(COUNT):
        (photos / name_of(number)).with_suffix(".txt").write_text(f"\ufeffgrey\n {number} ", encoding="utf-8")
    train, test = both(photos)
    assert captions(train) | captions(test) == {20 * number: f"grey {number}" for number in range(COUNT)}
    assert not remarks(train)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "their captions empty (1): 00.png"),
        (" \n ", "their captions empty (1): 00.png"),
        ("x" * (LONGEST + 1), "their captions longer than 1,000 characters (1): 00.png"),
        (None, "rows without file_name or text, left out (1): metadata.jsonl, line 1"),
        (7, "rows without file_name or text, left out (1): metadata.jsonl, line 1"),
        ("\ud800", "their captions not UTF-8 (1): 00.png"),
    ],
)
def test_a_caption_that_cannot_be_learned_is_named(photos: Path, text: object, problem: str) -> None:
    write_jsonl(photos, [{"file_name": name_of(0), "text": text}, *rows()[1:]])
    train, test = both(photos)
    assert problem in remarks(train)
    assert len(train.images) + len(test.images) == COUNT - 1
    with pytest.raises(DataError, match="--strict"):
        both(photos, strict=True)


def test_bytes_that_are_not_utf8_spoil_one_caption_only(photos: Path) -> None:
    write_jsonl(photos, rows())
    path = photos / "metadata.jsonl"
    path.write_bytes(path.read_bytes().replace(b"grey 3", b"grau \xe9"))
    train, test = both(photos)
    assert "not UTF-8 (1): 03.png" in remarks(train)
    assert len(train.images) + len(test.images) == COUNT - 1


def test_a_picture_without_a_caption_and_a_caption_without_a_picture_are_named(photos: Path) -> None:
    others: list[dict[str, object]] = [
        {"file_name": "99.png", "text": "gone"},
        {"file_name": "../00.png", "text": "outside"},
        {"file_name": name_of(1), "text": "again"},
    ]
    write_jsonl(photos, [*rows()[1:], *others])
    train, _ = both(photos)
    told = remarks(train)
    assert "without a caption (1): 00.png" in told
    assert "captions of files that are not images of the folder (2): 99.png, ../00.png" in told
    assert "second captions of an image, left out (1): 01.png" in told
    assert "again" not in captions(train).values()


@pytest.mark.parametrize("damage", ["{", "[1]", "nonsense", '"text"'])
def test_a_damaged_line_costs_its_picture_only(photos: Path, damage: str) -> None:
    write_jsonl(photos, rows()[1:])
    with (photos / "metadata.jsonl").open("a") as file:
        file.write(damage + "\n\n")
    train, _ = both(photos)
    assert f"rows without file_name or text, left out (1): metadata.jsonl, line {COUNT}" in remarks(train)


def test_a_table_without_the_columns_is_refused(photos: Path) -> None:
    (photos / "metadata.csv").write_text("file_name,caption\n00.png,grey\n")
    with pytest.raises(DataError, match="has no column text"):
        both(photos)


def test_a_folder_without_captions_is_refused_and_says_how_many_pictures_it_has(photos: Path) -> None:
    with pytest.raises(DataError, match=r"no training image with a caption found.*without a caption \(12\)"):
        both(photos)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        both(tmp_path / "none")


def test_other_files_are_named_and_captions_are_no_other_files(photos: Path) -> None:
    write_jsonl(photos, rows())
    (photos / "notes.doc").write_text("x")
    train, _ = both(photos, strict=True)
    assert "notes.doc" in remarks(train)
    assert "metadata" not in remarks(train)


def test_load_reads_captions_where_they_are_asked_for(photos: Path) -> None:
    write_jsonl(photos, rows())
    read = load("folder", photos, image_size=32, channels=1, captioned=True)
    assert read.captions is not None
    assert load("folder", photos / "more", image_size=32, channels=1).captions is None
