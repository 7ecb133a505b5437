import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from trainer.data import pictures
from trainer.data.decode import Picture, read_picture
from trainer.data.pictures import read_pictures


def remarks(folder: Path, name: str, size: int) -> list[str]:
    return [str(remark) for remark in read_pictures([folder / name], size, 1, folder).remarks]


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_files_that_are_not_images_are_reported_and_the_others_keep_their_order(tmp_path: Path) -> None:
    good = noise(40, 40, 3)
    Image.fromarray(good).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    contents = {
        "empty.png": b"",
        "text.jpg": b"hello",
        "cut.png": whole[: len(whole) // 2],
        "flipped.png": whole[:60] + bytes(40) + whole[100:],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "away.png").symlink_to(tmp_path / "nowhere.png")
    Image.new("F", (40, 40)).save(tmp_path / "float.tif")
    names = ["empty.png", "good.png", "text.jpg", "cut.png", "flipped.png", "away.png", "float.tif", "good.png"]
    found = read_pictures([tmp_path / name for name in names], 28, 3, tmp_path)
    assert found.kept == (1, 7)
    assert torch.equal(found.images[0], found.images[1])
    assert torch.equal(found.images[0], read_picture(tmp_path / "good.png", 28, 3).pixels)
    (remark,) = found.remarks
    assert (remark.what, remark.refused) == ("unreadable files, left out", True)
    reported_names, reasons = zip(*(each.removesuffix(")").split(" (", 1) for each in remark.names), strict=True)
    assert list(reported_names) == [name for name in names if name != "good.png"]
    assert reasons[:2] == ("not an image", "not an image")
    assert reasons[-2:] == ("No such file or directory", "pixels of mode F have no known range")


@pytest.mark.parametrize("limit", [100, 250], ids=["far over the limit", "over the limit"])
def test_a_decompression_bomb_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert remarks(tmp_path, "bomb.png", 8) == ["unreadable files, left out (1): bomb.png (too many pixels)"]


def test_smaller_and_long_pictures_are_named(tmp_path: Path) -> None:
    for name, size in (("small.png", (40, 30)), ("long.png", (61, 40)), ("photo.png", (60, 40))):
        Image.new("L", size).save(tmp_path / name)
    assert remarks(tmp_path, "small.png", 32) == ["images smaller than 32 pixels, enlarged (1): small.png"]
    lost = "images that lose more than a third to the centred square: one side is above 1.5 times the other"
    assert remarks(tmp_path, "long.png", 32) == [f"{lost} (1): long.png"]
    assert remarks(tmp_path, "photo.png", 32) == []


def test_an_interruption_does_not_wait_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    seen: list[Path] = []
    inside = threading.Event()

    def stuck(path: Path, *_: int) -> Picture:
        seen.append(path)
        if len(seen) == 1:
            raise KeyboardInterrupt  # as in the thread that waits for the result
        inside.wait(0.05)
        raise OSError

    monkeypatch.setattr(pictures, "read_picture", stuck)
    with pytest.raises(KeyboardInterrupt):
        read_pictures([tmp_path / "a.png"] * 10_000, 28, 1, tmp_path)
    assert len(seen) < 1_000
