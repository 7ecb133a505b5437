"""The user's own images with captions: Hugging Face's imagefolder convention, or a text file beside each image.

``metadata.jsonl`` or ``metadata.csv`` in the folder has a row for each image: ``file_name``, relative to the folder,
and ``text``, its caption. Without either file, the caption of ``dog.png`` is the content of ``dog.txt`` beside it.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.data.captions import Captions
from trainer.data.folder import Survey, split, walk
from trainer.data.images import DataError, DataFacts, ImageData, Remark, printable, require_none, split_name
from trainer.data.pictures import read_pictures

JSON_FILE, CSV_FILE = "metadata.jsonl", "metadata.csv"
#: Largest number of characters of a caption; a model uses only the first words.
LONGEST = 1000
HELD_OUT_GROUP = "held-out"


@dataclass(frozen=True)
class Row:
    """One row of the metadata and its position in the file; missing fields are None."""

    place: str
    file_name: str | None
    text: str | None


def load_captioned_folder(
    folder: Path, *, size: int, channels: int, train: bool = True, strict: bool = False
) -> ImageData:
    """Every readable image under ``folder`` with a caption, cropped to a centred square of ``size`` pixels.

    The remarks count and name images without a caption, and captions that are empty, longer than ``LONGEST``
    characters, not UTF-8, or without an image; ``strict`` rejects them. A tenth of the images is held out. Raises
    DataError for a rejected folder and for one without captioned images.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(str(folder))} is not a folder: --dataset folder:PATH takes that of your images")
    survey = Survey()
    found = walk(folder, folder, survey)
    captions, remarks = read_captions(folder, found)
    chosen = split([path for path in found if path in captions], train)
    pictures = read_pictures(chosen, size, channels, folder)
    remarks += (*pictures.remarks, *_but_captions(survey))
    if strict:
        require_none(remarks, folder)
    kept = [chosen[index] for index in pictures.kept]
    if not kept:
        problems = "".join(f"; {remark}" for remark in remarks)
        raise DataError(f"{printable(str(folder))}: no {split_name(train)} image with a caption found{problems}")
    count, group = len(kept), "training" if train else HELD_OUT_GROUP
    facts = DataFacts("folder", (channels, size, size), (), "the owner's", folder.resolve().name, count)
    provenance = f"{count:,} captioned {split_name(train)} images from {printable(str(folder))}"
    texts = Captions(tuple(captions[path] for path in kept), ((),) * count, torch.arange(count), (group,) * count)
    return ImageData(facts, pictures.images, torch.arange(count), provenance, remarks, texts)


def read_captions(folder: Path, pictures: list[Path]) -> tuple[dict[Path, str], tuple[Remark, ...]]:
    """The captions of ``pictures`` under ``folder``, one line each, and remarks about invalid ones.

    Raises DataError for metadata that cannot be read or has no column ``file_name`` or ``text``.
    """
    for name, rows_of in ((JSON_FILE, _json_rows), (CSV_FILE, _csv_rows)):
        if (folder / name).is_file():
            rows = list(rows_of(folder / name))
            return _of_rows(folder, pictures, rows)
    texts = {path: _read(path.with_suffix(".txt")) for path in pictures if path.with_suffix(".txt").is_file()}
    return _checked(folder, pictures, texts, ())


def _of_rows(folder: Path, pictures: list[Path], rows: list[Row]) -> tuple[dict[Path, str], tuple[Remark, ...]]:
    known = {path.relative_to(folder).as_posix(): path for path in pictures}
    texts: dict[Path, str] = {}
    broken, absent, again = [], [], []
    for row in rows:
        if row.file_name is None or row.text is None:
            broken.append(row.place)
        elif (path := known.get(row.file_name.removeprefix("./"))) is None:
            absent.append(row.file_name)
        elif path in texts:
            again.append(row.file_name)
        else:
            texts[path] = row.text
    remarks = (
        Remark("rows without file_name or text, left out", tuple(broken)),
        Remark("captions of files that are not images of the folder", tuple(absent)),
        Remark("second captions of an image, left out", tuple(again)),
    )
    return _checked(folder, pictures, texts, remarks)


def _checked(
    folder: Path, pictures: list[Path], texts: dict[Path, str], remarks: tuple[Remark, ...]
) -> tuple[dict[Path, str], tuple[Remark, ...]]:
    """The valid captions, one line each, and the remarks with those about invalid ones."""
    in_line = {path: " ".join(text.split()) for path, text in texts.items()}
    problems = {path: _problem(text) for path, text in in_line.items()}
    without = [path for path in pictures if path not in texts]
    named = [Remark("images left out, without a caption", _names(folder, without))]
    for problem in ("empty", "not UTF-8", f"longer than {LONGEST:,} characters"):
        paths = [path for path, found in problems.items() if found == problem]
        named.append(Remark(f"images left out, their captions {problem}", _names(folder, paths)))
    good = {path: text for path, text in in_line.items() if problems[path] is None}
    return good, tuple(remark for remark in (*remarks, *named) if remark.names)


def _problem(text: str) -> str | None:
    if not text:
        return "empty"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "not UTF-8"
    return f"longer than {LONGEST:,} characters" if len(text) > LONGEST else None


def _names(folder: Path, paths: list[Path]) -> tuple[str, ...]:
    return tuple(str(path.relative_to(folder)) for path in paths)


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_read(path).split("\n"), 1):  # strings may contain other line separators
        place = f"{path.name}, line {number}"
        try:
            fields = json.loads(line) if line.strip() else {}
        except ValueError:  # also for a number with thousands of digits
            fields = {}
        if line.strip():
            yield _row(place, fields if isinstance(fields, dict) else {})


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_read(path), newline=""))
    try:
        missing = {"file_name", "text"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{printable(str(path))} has no column {' and no column '.join(sorted(missing))}")
        for fields in reader:
            yield _row(f"{path.name}, line {reader.line_num}", fields)
    except csv.Error as failure:
        raise DataError(f"{printable(str(path))}, line {reader.line_num}: {failure}") from failure


def _row(place: str, fields: "dict[str, object]") -> Row:
    name, text = fields.get("file_name"), fields.get("text")
    return Row(place, name if isinstance(name, str) else None, text if isinstance(text, str) else None)


def _read(path: Path) -> str:
    """A text file; bytes that are not UTF-8 become surrogates, which valid UTF-8 never contains."""
    try:
        return path.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as failure:
        raise DataError(f"{printable(str(path))} cannot be read: {failure.strerror}") from failure


def _but_captions(survey: Survey) -> tuple[Remark, ...]:
    """Remarks about other files that were left out."""
    survey.others = [name for name in survey.others if not name.endswith(".txt") and name not in (JSON_FILE, CSV_FILE)]
    return tuple(remark for remark in survey.remarks() if remark.names)
