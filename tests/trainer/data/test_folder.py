import errno
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.__main__ import main
from trainer.data import DataError, ImageData
from trainer.data.folder import load_folder


def write(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def load(folder: Path, train: bool = True, strict: bool = False) -> ImageData:
    return load_folder(folder, size=28, channels=3, train=train, strict=strict)


def remarks(data: ImageData) -> list[str]:
    return [str(remark) for remark in data.remarks]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(3):
        write(tmp_path / "photos" / "red" / f"{index}.png", (255, 0, 0), (40 + index, 30))
        write(tmp_path / "photos" / "blue" / f"{index}.jpg", (0, 0, 255))
    return tmp_path / "photos"


def test_sub_folders_are_classes(photos: Path) -> None:
    data = load_folder(photos, size=32, channels=3)
    assert data.facts.class_names == ("blue", "red")
    assert data.facts.image_shape == (3, 32, 32)
    assert data.images.shape == (6, 3, 32, 32)
    assert data.images.dtype == torch.uint8
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (data.images[3:, 0] == 255).all()
    assert (data.images[3:, 1:] == 0).all()
    assert data.provenance == f"6 training images of 2 classes from {photos}"
    assert remarks(data)[0].startswith("images smaller than 32 pixels, enlarged (6): blue/0.jpg, ")


def test_one_channel_is_grey(photos: Path) -> None:
    data = load_folder(photos, size=28, channels=1)
    assert data.images.shape == (6, 1, 28, 28)
    assert data.images[3].float().mean().item() == pytest.approx(0.299 * 255, abs=1)


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / f"{index}.png", (1, 2, 3))
    (tmp_path / "notes.txt").write_text("not a picture")
    data = load(tmp_path)
    assert data.facts.class_names == ()
    assert data.labels.tolist() == [0, 0]
    assert data.provenance == f"2 training images of no classes from {tmp_path}"
    assert remarks(data) == ["files with other extensions, left out (1): notes.txt"]


def test_pictures_below_a_class_belong_to_it_and_hidden_ones_to_none(photos: Path) -> None:
    write(photos / "red" / "2024" / "summer" / "deep.png", (255, 0, 0))
    write(photos / "red" / ".thumbnails" / "0.png", (0, 255, 0))
    write(photos / "red" / "._0.png", (0, 255, 0))
    write(photos / ".trash" / "0.png", (0, 255, 0))
    assert load(photos).labels.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_links_to_pictures_and_to_classes_are_followed_and_circles_are_not(photos: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "0.png", (0, 255, 0))
    (photos / "green").symlink_to(tmp_path / "elsewhere")
    (photos / "red" / "link.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    (photos / "red" / "circle").symlink_to(photos)
    (photos / "self").symlink_to(photos / "self")
    data = load(photos)
    assert data.labels.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert remarks(data) == [
        "links to folders, not followed (1): red/circle",
        "files with other extensions, left out (1): self",
    ]
    with pytest.raises(DataError, match=r"--strict: links to folders, not followed \(1\): red/circle"):
        load(photos, strict=True)


# Splits


def test_a_tenth_of_each_class_is_held_out_the_same_in_every_run(tmp_path: Path) -> None:
    for index in range(45):  # the red level tells a picture from the others
        write(tmp_path / ("few" if index < 15 else "many") / f"{index}.png", (5 * index, 0, 0))
    train, test = load(tmp_path), load(tmp_path, train=False)
    assert test.labels.tolist() == [0, 1, 1, 1]
    assert test.facts.images == 4
    together = torch.cat([train.images, test.images])[:, 0, 0, 0]
    assert sorted(together.tolist()) == [5 * index for index in range(45)]
    assert torch.equal(load(tmp_path, train=False).images, test.images)


def test_too_few_pictures_leave_no_test_split(photos: Path) -> None:
    with pytest.raises(DataError, match="the test split is empty"):
        load(photos, train=False)


# What is wrong with a folder


def test_broken_files_are_left_out_and_named_or_refused(photos: Path) -> None:
    (photos / "red" / "broken.png").write_bytes(b"\x89PNG\r\n")
    data = load(photos)
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert remarks(data) == ["unreadable files, left out (1): red/broken.png (not an image)"]
    with pytest.raises(DataError, match=r"--strict: unreadable files, left out \(1\): red/broken\.png"):
        load(photos, strict=True)


def test_smaller_pictures_are_enlarged_or_refused(photos: Path) -> None:
    write(photos / "red" / "tiny.png", (255, 0, 0), (40, 8))
    assert "images smaller than 28 pixels, enlarged (1): red/tiny.png" in remarks(load(photos))
    with pytest.raises(DataError, match=r"--strict: images smaller than 28 pixels, enlarged \(1\): red/tiny\.png"):
        load(photos, strict=True)


def test_pictures_beside_the_classes_are_left_out_or_refused(photos: Path) -> None:
    write(photos / "stray.png", (0, 255, 0))
    data = load(photos)
    assert len(data.images) == 6
    assert remarks(data) == ["images beside the sub-folders, without a class, left out (1): stray.png"]
    with pytest.raises(DataError, match=r"without a class, left out \(1\): stray\.png"):
        load(photos, strict=True)


def test_a_good_folder_is_also_read_strictly(photos: Path) -> None:
    assert len(load(photos, strict=True).images) == 6


def test_a_class_of_broken_files_is_refused_by_name(photos: Path) -> None:
    (photos / "green").mkdir()
    (photos / "green" / "0.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no image of green can be read; .*green/0\.png \(not an image\)"):
        load(photos)


def test_an_empty_class_is_refused(photos: Path) -> None:
    (photos / "green").mkdir()
    with pytest.raises(DataError, match="the class green contains no image"):
        load(photos)


@pytest.mark.parametrize(
    ("folder", "complaint"), [("missing", "is not a readable folder"), (".", "the folder contains no image")]
)
def test_nothing_to_read_is_refused(tmp_path: Path, folder: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        load(tmp_path / folder)


def test_a_folder_that_may_not_be_read_is_named_or_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(photos / "red" / "private" / "0.png", (255, 0, 0))
    _lock(monkeypatch, photos / "red" / "private")
    assert "unreadable folders, left out (1): red/private (Permission denied)" in remarks(load(photos))
    with pytest.raises(DataError, match=r"--strict: unreadable folders, left out \(1\): red/private"):
        load(photos, strict=True)
    _lock(monkeypatch, photos / "red")
    with pytest.raises(DataError, match=r"the class red contains no image; .*red \(Permission denied\)"):
        load(photos)
    _lock(monkeypatch, photos)
    with pytest.raises(DataError, match=r"is not a readable folder \(Permission denied\)"):
        load(photos)


def _lock(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have ``folder`` refuse to be listed, to root too."""
    scandir = os.scandir

    def refuse(path: Path | str) -> object:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_pipe_is_not_waited_for(photos: Path) -> None:
    os.mkfifo(photos / "red" / "pipe.png")
    assert remarks(load(photos)) == ["unreadable files, left out (1): red/pipe.png (not a regular file)"]


def test_files_with_other_extensions_are_counted(photos: Path) -> None:
    for name in ("red/a.heic", "red/b.heic", "labels.csv"):
        (photos / name).write_bytes(b"something")
    assert remarks(load(photos, strict=True)) == [
        "files with other extensions, left out (3): labels.csv, red/a.heic, red/b.heic"
    ]


# Names of classes


def classes_of(folder: Path, *names: str) -> tuple[str, ...]:
    for name in names:
        write(folder / name / "0.png", (1, 2, 3))
    return load(folder).facts.class_names


def test_numbers_are_in_the_order_of_numbers_before_words(tmp_path: Path) -> None:
    """The index of a class named by its number is that number, from 0 on."""
    names = [str(number) for number in range(12)]
    assert classes_of(tmp_path / "digits", *names) == tuple(names)
    assert classes_of(tmp_path / "mixed", "b", "10", "-1", "2.5", "2", "02") == ("-1", "02", "2", "2.5", "10", "b")


def test_names_that_differ_in_case_only_are_two_classes(tmp_path: Path) -> None:
    assert classes_of(tmp_path, "a", "A") == ("A", "a")


@pytest.mark.parametrize(
    "name", ["\N{SNOWMAN}", "ice cream", "x" * 250, "..what", "a|b,'c'", "\U0001f469\u200d\U0001f52c"]
)
def test_odd_names_are_kept(tmp_path: Path, name: str) -> None:
    kept = () if name.startswith(".") else (name,)
    assert classes_of(tmp_path, "0", name) == ("0", *kept)


def test_names_alike_but_for_stored_accents_and_outer_spaces_are_one_class(tmp_path: Path) -> None:
    write(tmp_path / "caf\N{LATIN SMALL LETTER E WITH ACUTE}" / "0.png", (0, 0, 0))
    write(tmp_path / "cafe\N{COMBINING ACUTE ACCENT}" / "0.png", (0, 0, 0))
    write(tmp_path / " tea " / "0.png", (0, 0, 0))
    data = load(tmp_path)
    assert data.facts.class_names == ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "tea")
    assert data.labels.tolist() == [0, 0, 1]
    assert remarks(data) == [
        "sub-folders combined to the class caf\N{LATIN SMALL LETTER E WITH ACUTE} (2): 'cafe\\u0301', 'caf\\xe9'"
    ]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (" ", "has a name that consists of spaces"),
        ("None", "requests use for no class"),
        ("two\nlines", "control characters"),
        (os.fsdecode(b"caf\xe9"), "bytes that are not UTF-8"),
    ],
)
def test_names_that_no_class_can_have_are_refused(tmp_path: Path, name: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as refusal:
        classes_of(tmp_path, name)
    assert str(refusal.value).isprintable()


# From the command line


@pytest.mark.parametrize("family", ["vae", "gan", "ddpm"])
def test_a_model_of_ones_own_pictures_is_trained_and_exported(photos: Path, tmp_path: Path, family: str) -> None:
    run, target = str(tmp_path / "run"), tmp_path / "weights" / "pets"
    size = ["--image-size", "32", "--channels", "3"]
    options = ["--dataset", f"folder:{photos}", *size, "--epochs", "1", "--batch-size", "6"]
    assert main(["train", family, *options, "--device", "cpu", "--out", run]) == 0
    assert main(["train", family, "--data-dir", str(photos), "--resume", "--device", "cpu", "--out", run]) == 0
    assert main(["export", run, str(target), "--data-dir", str(photos)]) == 0
    manifest = (target / "manifest.json").read_text()
    assert '"class_names": [\n    "blue",\n    "red"\n  ]' in manifest
    assert "--dataset folder:PATH" in manifest
    assert str(photos) not in manifest
    assert (target / "samples.png").is_file()


def test_a_folder_that_was_renamed_is_the_same_and_other_classes_are_not(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    options = ["--image-size", "32", "--epochs", "1", "--batch-size", "6", "--device", "cpu", "--out", run]
    assert main(["train", "vae", "--dataset", f"folder:{photos}", *options]) == 0
    assert f"export {run} weights/run" in capsys.readouterr().out
    moved = photos.rename(tmp_path / "moved")
    assert main(["export", run, str(tmp_path / "pets"), "--data-dir", str(moved)]) == 0
    (moved / "red").rename(moved / "rouge")
    assert main(["export", run, str(tmp_path / "others"), "--data-dir", str(moved)]) == 1
    assert "class names: ('blue', 'red') then, ('blue', 'rouge') now" in capsys.readouterr().err


def test_two_folders_for_one_data_set_are_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "vae", "--dataset", f"folder:{photos}", "--data-dir", "other"]) == 1
    assert f"--data-dir other conflicts with --dataset folder:{photos}" in capsys.readouterr().err


def test_any_file_name_will_do(photos: Path) -> None:
    before = len(load(photos).images)
    (photos / "red" / os.fsdecode(b"caf\xe9.png")).write_bytes(next((photos / "red").glob("*.png")).read_bytes())
    assert len(load(photos).images) == before + 1


def test_strict_reaches_the_folder(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "red" / "broken.png").write_bytes(b"nothing")
    options = ["--dataset", f"folder:{photos}", "--strict", "--out", str(tmp_path / "run")]
    assert main(["train", "vae", *options]) == 1
    assert "broken.png" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["folder", "folder:", "imagenet", "mnist:here"])
def test_an_unknown_data_set_is_reported_with_the_known_ones(capsys: pytest.CaptureFixture[str], dataset: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "vae", "--dataset", dataset])
    assert "not one of fashion-mnist, mnist, cifar10, celeba, emoji, folder:PATH" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["fashion-mnist", "cifar10"])
def test_a_published_set_has_its_own_shape(capsys: pytest.CaptureFixture[str], tmp_path: Path, dataset: str) -> None:
    assert main(["train", "vae", "--dataset", dataset, "--image-size", "64", "--out", str(tmp_path / "run")]) == 1
    assert "omit --image-size and --channels" in capsys.readouterr().err
